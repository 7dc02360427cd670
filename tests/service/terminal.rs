//! What is shown at a terminal, narrow and wide, with and without colour.

use std::{
    fs::{File, OpenOptions},
    io::Read as _,
    process::{Child, Command, Stdio},
};

use rustix::{
    fs::OFlags,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use super::rig::serve;
use crate::support::howdah::Howdah;

/// Widths of terminals.
const COLUMNS: [u16; 3] = [40, 80, 200];

/// What a command shows at a terminal of that width.
fn shown(howdah: &Howdah, words: &str, columns: u16, colour: bool) -> String {
    let (mut child, mut master) = started(howdah, words, columns, colour);
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // Ends with EIO when nobody has the terminal open any more.
        let _ = master.read_to_end(&mut bytes);
        String::from_utf8(bytes).unwrap()
    });
    child.wait().unwrap();
    reader.join().unwrap()
}

/// A command at a terminal of that width, and the other end of the terminal.
fn started(howdah: &Howdah, words: &str, columns: u16, colour: bool) -> (Child, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let size = Winsize {
        ws_row: 24,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&master, size).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let terminal = || -> File {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options.custom_flags(OFlags::NOCTTY.bits().cast_signed());
        options.open(&name).unwrap()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_howdah"));
    command
        .args(words.split_whitespace())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("TERM", "xterm-256color")
        .env("HOWDAH_ENDPOINT", howdah.endpoint())
        .envs((!colour).then_some(("NO_COLOR", "1")))
        .stdin(Stdio::null())
        .stdout(terminal())
        .stderr(terminal());
    // Its ends of the terminal are closed here, so that reading ends with it.
    (command.spawn().unwrap(), File::from(master))
}

/// The text without escape sequences, as lines. A carriage return alone begins a line anew.
fn lines(text: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\u{1b}' {
            plain.push(character);
        } else if characters.next() == Some('[') {
            characters.by_ref().find(char::is_ascii_alphabetic);
        }
    }
    plain.split(['\r', '\n']).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_fit_the_terminal() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    howdah
        .instance("a-name-that-is-rather-long-for-a-table")
        .await;
    howdah.database("orders", "shop").await;
    for columns in COLUMNS {
        for colour in [true, false] {
            for words in [
                "instances list",
                "instances list -o wide",
                "instances get orders",
                "databases list orders",
                "operations list",
                "status",
            ] {
                let text = shown(&howdah, words, columns, colour);
                assert!(!text.contains('\u{1b}'), "{words}: {text:?}");
                let lines = lines(&text);
                let widest = lines.iter().map(|line| line.chars().count()).max();
                assert!(
                    widest <= Some(columns.into()),
                    "{columns}: {words}:\n{text}"
                );
                assert!(lines.len() > 2, "{words}: {text:?}");
            }
        }
    }
    // What somebody copies is whole, however narrow the terminal.
    let operation = shown(&howdah, "operations list -o name", 200, false);
    let operation = operation.lines().next().unwrap().trim();
    let endpoint = howdah.connection("orders", "shop").await;
    let endpoint = format!("{}:{}", endpoint.host, endpoint.port);
    for columns in COLUMNS {
        for (words, word) in [
            ("operations list", operation),
            ("instances list", &endpoint),
            ("instances get orders", &endpoint),
            ("instances list", "a-name-that-is-rather-long-for-a-table"),
        ] {
            let text = shown(&howdah, words, columns, false);
            assert!(text.contains(word), "{columns}: {words}: {word}\n{text}");
        }
    }
    // A table that has room breaks nothing.
    let wide = shown(&howdah, "instances list", 200, false);
    assert_eq!(
        lines(&wide).iter().filter(|line| !line.is_empty()).count(),
        3,
        "{wide}"
    );
}

/// What changes is printed below one header, or with the names of all values.
#[tokio::test(flavor = "multi_thread")]
async fn a_watched_list_has_one_header() {
    let howdah = serve().await;
    howdah.instance("orders").await;
    let user = super::command_line::User::of(&howdah);
    for (columns, headers) in [(40, 2), (80, 1), (200, 1)] {
        let (mut child, mut master) = started(&howdah, "instances list -w", columns, false);
        let mut text = String::new();
        let mut until = |word: &str| {
            let mut part = [0; 4096];
            while !text.contains(word) {
                let read = master.read(&mut part).unwrap();
                text.push_str(std::str::from_utf8(&part[..read]).unwrap());
            }
            text.clone()
        };
        until("READY");
        user.run("instances stop orders --wait").await;
        let all = until("STOPPED");
        child.kill().unwrap();
        child.wait().unwrap();
        user.run("instances start orders --wait").await;
        let found = all.matches("ENDPOINT").count();
        assert!(
            found >= 1 && (found == 1) == (headers == 1),
            "{columns}:\n{all}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_fits_the_terminal() {
    let howdah = serve().await;
    for columns in COLUMNS {
        let words = format!("instances create orders{columns} --ephemeral --wait");
        let text = shown(&howdah, &words, columns, columns == 80);
        assert!(text.contains('\u{1b}'), "no bar was drawn: {text:?}");
        assert!(text.contains("READY"), "{text}");
        for line in lines(&text) {
            let width = line.chars().count();
            assert!(width <= columns.into(), "{columns}: {line:?}");
        }
    }
}

/// Errors of usage are coloured at a terminal, unless nobody wants that.
#[tokio::test(flavor = "multi_thread")]
async fn colour_can_be_turned_off() {
    let howdah = serve().await;
    assert!(shown(&howdah, "instances nonsense", 80, true).contains("\u{1b}["));
    assert!(!shown(&howdah, "instances nonsense", 80, false).contains('\u{1b}'));
}
