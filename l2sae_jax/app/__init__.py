"""The page in the browser: what `app.py` does once its flags are read.

`portraits`   a photograph with a face found in it, and its edits
`views`       the pictures that the page shows of it
`sessions`    who has which photograph open, and for how long it is kept
`studio`      what visitors do, and what they see then
`page`        the layout, and what its controls do; needs Gradio
`look`        colours, fonts and sizes of the page
`server`      serves the page, and nothing but the page

Modules are imported by name: only `page`, `look` and `server` load Gradio.
"""
