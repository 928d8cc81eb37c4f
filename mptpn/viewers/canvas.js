// Pictures of one size, seen through one window: wheel zooms, dragging moves, a double click shows all.
// Side by side, or two of them swiped: the line between them can be dragged.

const GRIP = 10; // px of the screen around the line

export default {
  render({ model, el }) {
    const place = { row: 0, col: 0, zoom: 0, split: 0.5 }; // centre in pixels, screen pixels a pixel (0: all of it)
    let boards = [];
    let images = [];
    el.classList.add("mptpn-canvas");

    const size = () => model.get("size"); // [height, width]
    const swiping = () => model.get("mode") === "swipe" && model.get("pictures").length > 1;

    function fit(board) {
      const [height, width] = size();
      return Math.min(board.width / width, board.height / height);
    }

    function around(board) {
      const [height, width] = size();
      const zoom = Math.max(place.zoom || 0, fit(board));
      const half = [board.height / zoom / 2, board.width / zoom / 2];
      const inside = (centre, reach, side) =>
        reach * 2 >= side ? side / 2 : Math.min(Math.max(centre, reach), side - reach);
      return { zoom, row: inside(place.row, half[0], height), col: inside(place.col, half[1], width) };
    }

    function paint(board, image, from, to) {
      if (!image || !image.complete || !image.naturalWidth) return;
      const pen = board.getContext("2d");
      const view = around(board);
      const [height, width] = size();
      pen.save();
      pen.beginPath();
      pen.rect(from, 0, to - from, board.height);
      pen.clip();
      pen.imageSmoothingEnabled = view.zoom < 1;
      pen.drawImage(image, board.width / 2 - view.col * view.zoom, board.height / 2 - view.row * view.zoom,
        width * view.zoom, height * view.zoom);
      pen.restore();
    }

    function draw() {
      for (const [number, board] of boards.entries()) {
        board.getContext("2d").clearRect(0, 0, board.width, board.height);
        if (swiping()) {
          const [left, right] = model.get("pair");
          const line = Math.round(place.split * board.width);
          paint(board, images[left], 0, line);
          paint(board, images[right], line, board.width);
          board.getContext("2d").fillStyle = "#ff9f1c";
          board.getContext("2d").fillRect(line - 1, 0, 2, board.height);
        } else {
          paint(board, images[number], 0, board.width);
        }
      }
      el.dataset.zoom = boards.length ? around(boards[0]).zoom.toFixed(3) : "";
    }

    function tell() { // where the window is, so that the visible part can be denoised
      if (!boards.length) return;
      const view = around(boards[0]);
      const [height, width] = size();
      const reach = [boards[0].height / view.zoom / 2, boards[0].width / view.zoom / 2];
      model.set("visible", [
        Math.max(0, Math.floor(view.row - reach[0])), Math.min(height, Math.ceil(view.row + reach[0])),
        Math.max(0, Math.floor(view.col - reach[1])), Math.min(width, Math.ceil(view.col + reach[1]))]);
      model.save_changes();
    }

    let timer = 0;
    function moved() {
      draw();
      clearTimeout(timer);
      timer = setTimeout(tell, 150);
    }

    function listen(board) {
      let held = null;
      board.addEventListener("wheel", (event) => {
        event.preventDefault();
        const view = around(board);
        const zoom = Math.min(64, Math.max(fit(board), view.zoom * Math.exp(-event.deltaY / 300)));
        const scale = board.width / board.clientWidth;
        const [across, down] = [event.offsetX * scale - board.width / 2, event.offsetY * scale - board.height / 2];
        place.row = view.row + down / view.zoom - down / zoom;
        place.col = view.col + across / view.zoom - across / zoom;
        place.zoom = zoom;
        moved();
      }, { passive: false });
      board.addEventListener("pointerdown", (event) => {
        const line = place.split * board.clientWidth;
        held = { x: event.clientX, y: event.clientY, line: swiping() && Math.abs(event.offsetX - line) < GRIP };
        board.setPointerCapture(event.pointerId);
      });
      board.addEventListener("pointermove", (event) => {
        if (!held) return;
        if (held.line) {
          place.split = Math.min(1, Math.max(0, event.offsetX / board.clientWidth));
          return draw();
        }
        const view = around(board);
        const scale = board.width / board.clientWidth / view.zoom;
        place.row = view.row - (event.clientY - held.y) * scale;
        place.col = view.col - (event.clientX - held.x) * scale;
        held = { ...held, x: event.clientX, y: event.clientY };
        moved();
      });
      board.addEventListener("pointerup", () => { held = null; });
      board.addEventListener("dblclick", () => { place.zoom = 0; moved(); });
    }

    function titles() {
      const names = model.get("pictures").map((one) => one.name);
      return swiping() ? [model.get("pair").map((i) => names[i]).join(" | ")] : names;
    }

    function lay() {
      const [height, width] = size();
      el.replaceChildren();
      el.dataset.mode = swiping() ? "swipe" : "side by side";
      boards = titles().map((name) => {
        const figure = document.createElement("figure");
        const title = document.createElement("figcaption");
        title.textContent = name;
        const board = document.createElement("canvas");
        board.width = swiping() ? 900 : 480;
        board.height = Math.round(board.width * Math.min(1.2, height / width));
        board.dataset.name = name;
        listen(board);
        figure.append(title, board);
        el.append(figure);
        return board;
      });
    }

    function load() {
      const pictures = model.get("pictures");
      images = pictures.map((one) => {
        const image = new Image();
        image.onload = draw;
        image.src = URL.createObjectURL(new Blob([one.png], { type: "image/png" }));
        image.decode().finally(() => URL.revokeObjectURL(image.src)).catch(() => {});
        return image;
      });
      if (titles().join("\n") !== boards.map((board) => board.dataset.name).join("\n")) lay();
      draw();
    }

    model.on("change:pictures", load);
    model.on("change:mode change:pair change:size", () => { lay(); draw(); });
    lay();
    load();
    return () => { clearTimeout(timer); };
  },
};
