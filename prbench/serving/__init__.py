"""One person's scores over HTTP: `prbench user serve`.

limits   what a request may hold, checked before anything is computed
app      the endpoints
server   the socket, and the loop until Ctrl-C
"""
