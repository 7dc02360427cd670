import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;

/**
 * Writes a row by JDBC and prints it as it was read back.
 * usage: Main URL DRIVER BODY
 */
public final class Main {
    private static final String INSERT = "insert into notes (driver, body) values (?, ?)";
    private static final String READ =
        "select json_build_array(current_database(), current_user, body,"
            + " (select ssl from pg_stat_ssl where pid = pg_backend_pid()))::text"
            + " from notes where driver = ?";

    public static void main(String[] arguments) throws SQLException {
        try (Connection connection = DriverManager.getConnection(arguments[0])) {
            try (PreparedStatement insert = connection.prepareStatement(INSERT)) {
                insert.setString(1, arguments[1]);
                insert.setString(2, arguments[2]);
                insert.executeUpdate();
            }
            try (PreparedStatement read = connection.prepareStatement(READ)) {
                read.setString(1, arguments[1]);
                ResultSet rows = read.executeQuery();
                rows.next();
                new PrintStream(System.out, true, StandardCharsets.UTF_8).println(rows.getString(1));
            }
        }
    }
}
