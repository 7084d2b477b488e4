"""The HTTP interface of the cloud, for consoles and programs.

    app.create_app    the application, to be served or mounted
    routes/           what can be asked, a module for each matter
    reads             the queries behind it, which the verbs use as well
    models            what goes over the wire
    edge              what every request meets: limits, ids, logs, numbers
    stream            live events, one look at the database for all who listen

FastAPI is known in this folder only, but for `reads` and `cursors`, which need nothing but the
store.
"""
