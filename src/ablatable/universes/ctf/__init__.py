"""CTF, the authors' interchange format: a universe's images as PNG files in one uncompressed tar.

Members: `config.json`; `factual.png`; `leave_<u>_out.png`, u counted from 1, for every unit; and the training images,
`training_set.png` (format ONEFILE, one image per unit) or `train_<i>_<id>_<count>.png` for every unit. A PNG tiles its
images row by row. We write one column of tiles, as the authors' scripts do, and read any number of columns. Grey images
have mode L.
"""

from .exporting import export_ctf as export_ctf
from .importing import import_ctf as import_ctf
