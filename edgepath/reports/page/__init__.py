"""`report.html`: what was measured of a bundle, as one page that needs nothing but a browser.

templates   the HTML (Jinja2), and page.css: how it looks on a phone, on a desktop, on paper, light and dark
rendering   templates to HTML; everything that goes in is escaped
colours     colour scales that colour-blind people can read, and the text colour that is read on them
heat        heat maps: tables whose cells are coloured
lines       curves and intervals, for inline SVG
tilestrip   the tiles that drifted most, as pictures
document    the page: verdict, drift, one section a measurement, where everything came from
measured    what `robustness`, `curves`, `probe`, a latency run and devices found, as sections
merging     `edgepath report page`: reads results, refuses those of another bundle, writes the page
"""
