"""Writes a row by asyncpg and prints it as it was read back.

usage: with_asyncpg.py CONNECTION DRIVER BODY    an empty CONNECTION: by the environment
"""

import asyncio
import sys

import asyncpg

INSERT = "insert into notes (driver, body) values ($1, $2)"
READ = """select json_build_array(current_database(), current_user, body,
    (select ssl from pg_stat_ssl where pid = pg_backend_pid()))::text
    from notes where driver = $1"""


async def main(connection, driver, body):
    client = await asyncpg.connect(connection or None)
    try:
        await client.execute(INSERT, driver, body)
        print(await client.fetchval(READ, driver))
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
