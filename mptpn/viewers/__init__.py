"""Two places to look at a scan and at what denoising does to it, napari and JupyterLab; both show one session."""
