"""An archive, share by share: snakemake -s reproduce/archive.smk --config folder=IN out=OUT shares=10 -j 4 (or a Slurm profile).

A share that was killed goes on where it was (--retries 3). Files that fail are rows of the table, and stop nothing.
"""

import csv

FOLDER, OUT, SHARES = config["folder"], config["out"], int(config.get("shares", 4))
OPTIONS = config.get("options", "")  # of mptpn denoise


rule table:
    input: [f"{OUT}/.shares/{number}-{SHARES}" for number in range(1, SHARES + 1)]
    output: f"{OUT}/table.csv"
    run:
        with open(f"{OUT}/results.trust.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        last = {row["file"]: row for row in rows}  # a repeated share has repeated rows
        with open(output[0], "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(last[name] for name in sorted(last))


rule share:
    output: touch(f"{OUT}/.shares/{{number}}-{SHARES}")
    threads: 1
    shell:
        "OMP_NUM_THREADS={threads} mptpn denoise {FOLDER:q} --out {OUT:q} --part {wildcards.number}/{SHARES} {OPTIONS} "
        "|| [ $? -eq 1 ]"  # 1: some files failed, which the table says
