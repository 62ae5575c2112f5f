"""The formats that trainers read: one file per format; `folder` writes what they share, `rows` and `entities` read."""
