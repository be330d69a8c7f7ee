"""The interactive page: arrays in, one self-contained HTML file out.

`content` computes the numbers, `bars`, `heat_map` and `graph` draw one view each with Bokeh,
`document` assembles the page, and `notebook` is `jaxflow.show`. Bokeh is imported when needed.
"""
