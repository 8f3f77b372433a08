"""Data: the CelebAMask-HQ release, an endless synthetic stand-in, and the input pipeline.

`celebamask`  a `tensorflow_datasets` builder: release folder, zip or tar to array_record files
`synthetic`   procedurally drawn faces with exact labels; no files
`sources`     `open_source(data_config, split)`: one of the two as a random-access source
`pipeline`    `make_pipeline(source, ...)`: shuffled, mirrored, sharded, resumable batches
`images`      reading, writing and resizing pictures
`archives`    one interface for folders, zip files and tar files

Modules are imported by name, so that reading a picture does not load `tensorflow_datasets`.
"""
