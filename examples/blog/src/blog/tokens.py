"""Edit tokens: who got one at creation may delete the post, on any instance and release."""

import hashlib
import hmac


def edit_token(secret_key: str, post_id: int) -> str:
    return hmac.new(secret_key.encode(), f"post:{post_id}".encode(), hashlib.sha256).hexdigest()


def is_edit_token(secret_key: str, post_id: int, token: str) -> bool:
    # Bytes, because compare_digest refuses text outside ASCII.
    return hmac.compare_digest(edit_token(secret_key, post_id).encode(), token.encode())
