//! What PostgreSQL's error codes mean: one table for the metadata database and for
//! users' servers. Source: the appendix "PostgreSQL Error Codes".

/// What an SQLSTATE says about the server, the session or the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The session has ended or must be given up: another one may do better.
    SessionEnded,
    /// The server starts, stops or recovers, and takes no sessions now.
    ServerStarting,
    /// All connections of the server, the database or the role are in use.
    ConnectionsExhausted,
    /// The server or the session takes no writes, as a standby does.
    ReadOnly,
    /// The server refuses the role, its password or its address.
    LoginRefused,
    /// The database does not exist.
    DatabaseMissing,
    /// The disk is full.
    DiskFull,
    /// Memory or another bounded resource is used up.
    ResourcesExhausted,
    /// A lock, a deadlock, a serialization conflict or a timeout: the same statement may
    /// succeed later.
    Busy,
    /// The server has a fault of its own: I/O, configuration, a broken file.
    ServerFault,
    /// The role lacks a right.
    RightMissing,
    /// A table, column, function or schema does not exist.
    ObjectMissing,
    /// A text does not fit the database's encoding.
    Encoding,
    /// Anything else: the statement itself was refused.
    Refused,
}

impl Meaning {
    /// The meaning of the five characters that PostgreSQL sends.
    #[must_use]
    pub fn of(code: &str) -> Self {
        match code {
            // admin_shutdown, crash_shutdown, database_dropped, idle_session_timeout,
            // idle_in_transaction_session_timeout, transaction_timeout,
            // invalid_sql_statement_name: a pooler or DISCARD took the statement away.
            "57P01" | "57P02" | "57P04" | "57P05" | "25P03" | "25P04" | "26000" => {
                Self::SessionEnded
            }
            "57P03" => Self::ServerStarting,
            "53300" => Self::ConnectionsExhausted,
            "53100" => Self::DiskFull,
            "25006" => Self::ReadOnly,
            "3D000" => Self::DatabaseMissing,
            "42501" => Self::RightMissing,
            // undefined_table, undefined_column, undefined_function, invalid_schema_name.
            "42P01" | "42703" | "42883" | "3F000" => Self::ObjectMissing,
            // character_not_in_repertoire, untranslatable_character.
            "22021" | "22P05" => Self::Encoding,
            // lock_not_available, object_in_use, query_canceled, snapshot_too_old.
            "55P03" | "55006" | "57014" | "72000" => Self::Busy,
            _ => Self::of_class(code.get(..2).unwrap_or_default()),
        }
    }

    fn of_class(class: &str) -> Self {
        match class {
            // Connection exception.
            "08" => Self::SessionEnded,
            // Invalid authorization specification.
            "28" => Self::LoginRefused,
            // Transaction rollback: serialization failure, deadlock.
            "40" => Self::Busy,
            // Insufficient resources.
            "53" => Self::ResourcesExhausted,
            // System error, configuration file error, and internal error, which is also
            // what two sessions get that change one catalog row at the same time.
            "58" | "F0" | "XX" => Self::ServerFault,
            _ => Self::Refused,
        }
    }

    /// Whether the session is of no more use: it is closed, or another server or
    /// another moment is needed.
    #[must_use]
    pub const fn ends_session(self) -> bool {
        matches!(
            self,
            Self::SessionEnded | Self::ServerStarting | Self::ReadOnly | Self::ServerFault
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_trouble_has_a_meaning() {
        let table = [
            ("08000", Meaning::SessionEnded),
            ("08006", Meaning::SessionEnded),
            ("08P01", Meaning::SessionEnded),
            ("22021", Meaning::Encoding),
            ("22P05", Meaning::Encoding),
            ("23505", Meaning::Refused),
            ("25006", Meaning::ReadOnly),
            ("25P02", Meaning::Refused),
            ("25P03", Meaning::SessionEnded),
            ("28000", Meaning::LoginRefused),
            ("28P01", Meaning::LoginRefused),
            ("3D000", Meaning::DatabaseMissing),
            ("3F000", Meaning::ObjectMissing),
            ("40001", Meaning::Busy),
            ("40P01", Meaning::Busy),
            ("42501", Meaning::RightMissing),
            ("42601", Meaning::Refused),
            ("42P01", Meaning::ObjectMissing),
            ("53000", Meaning::ResourcesExhausted),
            ("53100", Meaning::DiskFull),
            ("53200", Meaning::ResourcesExhausted),
            ("53300", Meaning::ConnectionsExhausted),
            ("53400", Meaning::ResourcesExhausted),
            ("55006", Meaning::Busy),
            ("55P03", Meaning::Busy),
            ("57014", Meaning::Busy),
            ("57P01", Meaning::SessionEnded),
            ("57P03", Meaning::ServerStarting),
            ("57P05", Meaning::SessionEnded),
            ("58030", Meaning::ServerFault),
            ("F0000", Meaning::ServerFault),
            ("XX000", Meaning::ServerFault),
            ("XX002", Meaning::ServerFault),
            ("", Meaning::Refused),
            ("é", Meaning::Refused),
        ];
        for (code, meaning) in table {
            assert_eq!(Meaning::of(code), meaning, "{code}");
        }
    }
}
