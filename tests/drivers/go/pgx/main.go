// Writes a row by pgx and prints it as it was read back.
// usage: pgx CONNECTION DRIVER BODY    an empty CONNECTION: by the environment
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/jackc/pgx/v5"
)

const insert = "insert into notes (driver, body) values ($1, $2)"
const read = `select json_build_array(current_database(), current_user, body,
    (select ssl from pg_stat_ssl where pid = pg_backend_pid()))::text
    from notes where driver = $1`

func run(ctx context.Context, connection, driver, body string) (string, error) {
	client, err := pgx.Connect(ctx, connection)
	if err != nil {
		return "", err
	}
	defer client.Close(ctx)
	if _, err := client.Exec(ctx, insert, driver, body); err != nil {
		return "", err
	}
	var row string
	err = client.QueryRow(ctx, read, driver).Scan(&row)
	return row, err
}

func main() {
	row, err := run(context.Background(), os.Args[1], os.Args[2], os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(row)
}
