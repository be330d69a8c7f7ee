"""Draw attributions as one self-contained, interactive HTML page.

`content` computes the numbers, `bars`, `heat_map` and `graph` draw one view each with Bokeh,
`document` assembles the page, and `notebook` is `jaxflow.show`. Bokeh is imported when needed.
"""
