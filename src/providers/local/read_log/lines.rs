//! Lines of a log, as text, within the bound of a part.

use super::files::Log;

/// Most bytes of a part, as text: what is no UTF-8 takes three bytes for one.
pub(super) const MOST: usize = 256 * 1024;

/// Bytes that are read at once: so many that a piece of the largest size never ends with a
/// part of a character.
const READ: usize = MOST + 4;

/// Lines that go into one part.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) lines: Vec<String>,
    bytes: usize,
}

impl Page {
    /// Takes the lines of a file from `offset` on, and answers how many bytes of it were
    /// taken, and whether these are all. A file is `finished` if nothing is added to it: then
    /// its last line needs no end.
    pub(super) fn take(
        &mut self,
        log: &mut Log,
        offset: u64,
        finished: bool,
    ) -> std::io::Result<(u64, bool)> {
        let bytes = log.bytes(offset, READ)?;
        let at_end = bytes.len() < READ;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
            if end.is_none() && at_end && !finished && line.len() <= MOST {
                break;
            }
            let whole = end.is_some() || at_end && finished;
            let taken = match self.push(line, whole) {
                Some(taken) if taken == line.len() && end.is_some() => taken + 1,
                Some(taken) => taken,
                None => break,
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
        let taken = bytes.len() - rest.len();
        Ok((taken as u64, at_end && rest.is_empty()))
    }

    /// Adds a line, or of one that is too long for any part, or not `whole`, a piece. Answers
    /// how many bytes of it were taken; none if it belongs to the next part.
    fn push(&mut self, line: &[u8], whole: bool) -> Option<usize> {
        let left = MOST.saturating_sub(self.bytes);
        let (text, taken) = text_within(line, left);
        let fits = taken == line.len() && whole;
        if !fits && !self.lines.is_empty() || left == 0 {
            return None;
        }
        self.bytes += text.len() + 1;
        self.lines.push(text);
        Some(taken)
    }
}

/// The last lines of a file in a part's bytes, and where the last of them ends.
pub(super) fn tail(log: &mut Log, finished: bool) -> std::io::Result<(Vec<String>, u64)> {
    // One byte more shows whether the first line is a whole one.
    let start = log.length().saturating_sub(MOST as u64 + 1);
    let bytes = log.bytes(start, MOST + 1)?;
    let skipped = match start > 0 {
        true => bytes.iter().position(|byte| *byte == b'\n'),
        false => None,
    };
    let first = match (start > 0, skipped) {
        (true, Some(end)) => end + 1,
        (true, None) => bytes.len(),
        (false, _) => 0,
    };
    let end = match bytes.iter().rposition(|byte| *byte == b'\n') {
        _ if finished => bytes.len(),
        Some(end) => end + 1,
        None => 0,
    };
    let text = bytes.get(first..end).unwrap_or_default();
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let lines = match text.is_empty() && end <= first {
        true => Vec::new(),
        false => text
            .split(|byte| *byte == b'\n')
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect(),
    };
    Ok((lines, start + end as u64))
}

/// The longest beginning that takes at most `most` bytes as text, and how many bytes it is.
fn text_within(bytes: &[u8], most: usize) -> (String, usize) {
    let (mut text, mut taken) = (String::new(), 0);
    for chunk in bytes.utf8_chunks() {
        let left = most - text.len();
        let valid = chunk.valid();
        let fitting = valid
            .get(..valid.floor_char_boundary(left))
            .unwrap_or_default();
        text.push_str(fitting);
        taken += fitting.len();
        if fitting.len() < valid.len() {
            break;
        }
        if chunk.invalid().is_empty() {
            continue;
        }
        if text.len() + char::REPLACEMENT_CHARACTER.len_utf8() > most {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        taken += chunk.invalid().len();
    }
    (text, taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        for (bytes, most, text, taken) in [
            (&b"abc"[..], 3, "abc", 3),
            (b"abc", 2, "ab", 2),
            ("\u{e4}\u{e4}".as_bytes(), 3, "\u{e4}", 2),
            (b"a\xff\xffb", 6, "a\u{fffd}", 2),
            (b"a\xff\xffb", 8, "a\u{fffd}\u{fffd}b", 4),
            (b"\xff", 2, "", 0),
        ] {
            assert_eq!(text_within(bytes, most), (text.to_owned(), taken));
        }
    }
}
