"""An MCP host: starts a server, calls tools, prints what they answered, one JSON line each."""

import asyncio
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.types import Implementation

CALLS = [
    ("klaviyo_get_account_details", {"model": "claude"}),
    (
        "klaviyo_create_profile",
        {"model": "gpt", "profile_data": {"email": "planted.person@example.com"}},
    ),
    ("klaviyo_no_such_tool", {}),
]


async def main():
    command, *args = sys.argv[1:]
    server = StdioServerParameters(command=command, args=args, env=dict(os.environ))
    host = Implementation(name="claude-ai", version="1.2.3")
    async with (
        stdio_client(server) as (reader, writer),
        ClientSession(reader, writer, client_info=host) as session,
    ):
        await session.initialize()
        for name, arguments in CALLS:
            answer = await session.call_tool(name, arguments)
            print(json.dumps({"tool": name, "failed": bool(answer.isError)}), flush=True)


asyncio.run(main())
