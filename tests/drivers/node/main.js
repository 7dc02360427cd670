// Writes a row by node-postgres and prints it as it was read back.
// usage: main.js CONNECTION DRIVER BODY    an empty CONNECTION: by the environment

const { Client } = require("pg");

const INSERT = "insert into notes (driver, body) values ($1, $2)";
const READ = `select json_build_array(current_database(), current_user, body,
    (select ssl from pg_stat_ssl where pid = pg_backend_pid()))::text as row
    from notes where driver = $1`;

async function main([connection, driver, body]) {
  const client = new Client(connection ? { connectionString: connection } : {});
  await client.connect();
  try {
    await client.query(INSERT, [driver, body]);
    const { rows } = await client.query(READ, [driver]);
    console.log(rows[0].row);
  } finally {
    await client.end();
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});
