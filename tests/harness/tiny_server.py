"""A model server for tests: it does what the request tells it to, so that every way to fail can be asked for.

POST /score with {"do": ...}: nothing = echo; "sleep" (seconds); "fail" (status); "exit"; "sick" (GET / answers 503 from
now on). Started as `tiny_server.py MODE`: serve, exit (ends at once), deaf (never ready), late (ready after a second).
"""

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODE = sys.argv[1]
STARTED = time.monotonic()
health = {"status": 200}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        early = MODE == "deaf" or (MODE == "late" and time.monotonic() - STARTED < 1)
        self.answer(503 if early else health["status"], {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body.get("do") == "sleep":
            time.sleep(body["seconds"])
        if body.get("do") == "exit":
            os._exit(7)
        if body.get("do") == "sick":
            health["status"] = 503
        status = body["status"] if body.get("do") == "fail" else 200
        self.answer(status, {"output": f"heard {json.dumps(body)}", "pid": os.getpid()})

    def answer(self, status: int, document: dict) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if MODE == "exit":
    print("Traceback: no weights in this folder", flush=True)
    sys.exit(3)
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(json.dumps({"port": server.server_address[1]}), flush=True)
print("serving", flush=True)
server.serve_forever()
