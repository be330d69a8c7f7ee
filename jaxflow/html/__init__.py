"""The interactive page: arrays in, one HTML file out that needs no network and no other file.

`content` works the numbers out, `compact` makes them small, `bars`, `heat_map` and `flow_graph`
draw one view each with Bokeh, `document` puts them on a page, and `notebook` is what
`jaxflow.show` calls. Bokeh is imported at the first page only.
"""
