"""The page at ``/``: the OpenAPI page, to read and to try. It is ours because BentoML's own loads a tag manager from
elsewhere, which tells others who looks at it; the scripts are BentoML's copy of Swagger UI, from this service.
"""

from __future__ import annotations

import base64
import hashlib

from serving.protocols import Rendered

STATIC = "/static_content/"
FILES = ("swagger-ui.css", "swagger-ui-bundle.js")
"""What the page needs of Swagger UI, and where BentoML serves it."""
_SCRIPT = """
const key = document.getElementById("key");
async function show() {
  const headers = key.value ? {Authorization: "Bearer " + key.value} : {};
  const answer = await fetch("docs.json", {headers});
  document.getElementById("ask").hidden = answer.ok;
  if (!answer.ok) { key.focus(); return; }
  const ui = SwaggerUIBundle({
    spec: await answer.json(),
    dom_id: "#swagger-ui",
    deepLinking: true,
    onComplete: () => { if (key.value) ui.preauthorizeApiKey("key", key.value); },
  });
}
document.getElementById("ask").addEventListener("submit", event => { event.preventDefault(); show(); });
show();
"""
_STYLE = "body{margin:0;font-family:sans-serif}form{margin:4rem auto;max-width:32rem}form[hidden]{display:none}"
_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Pilotage: predictions</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="static_content/swagger-ui.css">
<style>{_STYLE}</style>
</head>
<body>
<form id="ask" hidden>
<p><label for="key">This service asks for a key with the role <code>read</code>:</label></p>
<p><input id="key" type="password" autocomplete="off" size="50"> <button>Show</button></p>
</form>
<div id="swagger-ui"></div>
<script src="static_content/swagger-ui-bundle.js"></script>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def page() -> Rendered:
    """The page. Nothing of it comes from elsewhere, and nothing else may frame it."""
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' '{_hash(_SCRIPT)}'",
            # Swagger UI sets styles in its elements.
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "form-action 'none'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )
    headers = (
        ("content-type", "text/html; charset=utf-8"),
        ("content-security-policy", policy),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    )
    return Rendered(status=200, headers=headers, body=_PAGE.encode())


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
