// Writes a row by lib/pq and prints it as it was read back.
// usage: pq CONNECTION DRIVER BODY    an empty CONNECTION: by the environment
package main

import (
	"database/sql"
	"fmt"
	"log"
	"os"

	_ "github.com/lib/pq"
)

const insert = "insert into notes (driver, body) values ($1, $2)"
const read = `select json_build_array(current_database(), current_user, body,
    (select ssl from pg_stat_ssl where pid = pg_backend_pid()))::text
    from notes where driver = $1`

func run(connection, driver, body string) (string, error) {
	client, err := sql.Open("postgres", connection)
	if err != nil {
		return "", err
	}
	defer client.Close()
	if _, err := client.Exec(insert, driver, body); err != nil {
		return "", err
	}
	var row string
	err = client.QueryRow(read, driver).Scan(&row)
	return row, err
}

func main() {
	row, err := run(os.Args[1], os.Args[2], os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(row)
}
