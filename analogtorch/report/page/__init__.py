"""Reports as documents: what they say, and how HTML and Markdown say it.

``parts`` is what a document is made of; ``as_html`` and ``as_markdown`` render it. ``run`` and
``mapping`` compose the two documents that there are, from the sections of the other files.
"""
