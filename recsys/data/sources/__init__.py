"""One file per data set: a folder in, tables out."""
