"""Writes a row by psycopg and prints it as it was read back.

usage: with_psycopg.py CONNECTION DRIVER BODY    an empty CONNECTION: by the environment
"""

import sys

import psycopg

INSERT = "insert into notes (driver, body) values (%s, %s)"
READ = """select json_build_array(current_database(), current_user, body,
    (select ssl from pg_stat_ssl where pid = pg_backend_pid()))::text
    from notes where driver = %s"""


def main(connection, driver, body):
    with psycopg.connect(connection) as client:
        client.execute(INSERT, (driver, body))
        print(client.execute(READ, (driver,)).fetchone()[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
