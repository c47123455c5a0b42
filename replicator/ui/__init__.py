"""A page that shows a group live, `/ui`: who may write, what is wrong and what helps, terms, lag, the newest records.

    feed.py      looks at the group once a second while somebody watches, and tells all who do
    picture.py   what a look comes to, as JSON (pure)
    files.py     what the page is made of
    actions.py   promote, switchover, pause, resume, each behind what it would lose
    app.py       the routes: the page, its events, and the actions where there are any
    page.py      the page in an application's own server
    static/      the page itself: plain HTML, CSS and JavaScript, nothing from elsewhere

A node serves it to look at; `replicator ui` serves it on the operator's own machine, with the actions. This module has
nothing in it: an application in the middleware needs no Starlette.
"""
