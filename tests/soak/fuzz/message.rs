//! Messages of any type: sensible ones, extreme ones, and bytes that are no message.

use prost_reflect::{Cardinality, FieldDescriptor, Kind, MessageDescriptor};

use super::names::Names;
use crate::soak::Numbers;

/// How far a message is from what a client means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Each value is one that clients send.
    Sensible,
    /// Each value has the right type, and many are extreme.
    Extreme,
    /// Wire types, lengths and texts are wrong too.
    Broken,
}

/// Wire types (protobuf's encoding, "Message Structure").
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// Messages in messages are made up to this depth.
const DEPTH: usize = 6;

const WORDS: &[&str] = &[
    "orders", "billing", "shop", "a", "b1", "team", "15", "C", "",
];

const FILTERS: &[&str] = &[
    "state = READY",
    "state != DELETED AND labels.team = \"a\"",
    "create_time >= 2026-01-01T00:00:00Z",
    "effect = SECRET",
    "done = true",
    "method = \"x\" AND result = DONE",
];

const STRANGE: &[&str] = &[
    "\0",
    "a\0b",
    "\u{1}\u{1b}[2J\r\n",
    "x\nlevel=error forged",
    "'; drop table instances; --",
    "\" OR 1 = 1",
    "$1",
    "%s%n",
    "../../../etc/passwd",
    "\u{202e}\u{200b}\u{feff}",
    "\u{1f4a9}\u{0301}\u{0301}",
    "\u{10ffff}",
    "{\"a\":[[[[[[",
    "\\",
    "*",
    "-",
    "projects",
    "9999999999999999999999",
    "NaN",
    "labels.",
    "labels.\u{0}=1",
    "state = ",
    "create_time > 99999-01-01T00:00:00Z",
    "create_time < 0000-00-00T00:00:00Z",
    "name desc, name asc",
    "500GB",
    "-1",
    "18.4.0-beta",
];

const EXTREMES: &[u64] = &[
    0,
    1,
    0x7f,
    0x80,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
    253_402_300_800,
    315_576_000_001,
    1_000_000_000,
];

/// Makes messages.
pub struct Maker<'a> {
    pub numbers: Numbers,
    names: &'a Names,
    style: Style,
    /// Names that a message of this type is about.
    fitting: &'a [String],
}

impl<'a> Maker<'a> {
    pub fn new(numbers: Numbers, names: &'a Names) -> Self {
        Self {
            numbers,
            names,
            style: Style::Sensible,
            fitting: &names.odd,
        }
    }

    /// A name of a resource: mostly one of those that fit, or any other.
    fn name(&mut self) -> String {
        let fitting = self.chance(70);
        let of = match (fitting, self.numbers.below(5)) {
            (true, _) => self.fitting,
            (false, 0) => &self.names.projects,
            (false, 1) => &self.names.instances,
            (false, 2) => &self.names.databases,
            (false, 3) => &self.names.operations,
            (false, _) => &self.names.odd,
        };
        of[self.numbers.below(of.len())].clone()
    }

    /// True `percent` times of a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.numbers.below(100) < percent
    }

    fn one<'t>(&mut self, of: &[&'t str]) -> &'t str {
        of[self.numbers.below(of.len())]
    }

    /// A message of this type, in this style.
    pub fn message(&mut self, of: &MessageDescriptor, style: Style) -> Vec<u8> {
        self.style = style;
        self.fitting = self.names.fitting(of);
        let mut bytes = Vec::new();
        self.fields(of, DEPTH, &mut bytes);
        if style == Style::Broken {
            self.spoil(&mut bytes);
        }
        bytes
    }

    fn fields(&mut self, of: &MessageDescriptor, depth: usize, into: &mut Vec<u8>) {
        for field in of.fields() {
            let names = matches!(field.name(), "name" | "parent" | "instance");
            if !names && self.chance(45) {
                continue;
            }
            let count = match (field.cardinality(), self.style) {
                (Cardinality::Repeated, Style::Sensible) => self.numbers.below(4),
                (Cardinality::Repeated, _) if self.chance(1) => 300,
                (Cardinality::Repeated, _) => self.numbers.below(8),
                (_, Style::Broken) if self.chance(5) => 2,
                _ => 1,
            };
            for _ in 0..count {
                self.field(&field, depth, into);
            }
        }
    }

    fn field(&mut self, field: &FieldDescriptor, depth: usize, into: &mut Vec<u8>) {
        let number = u64::from(field.number());
        if self.style == Style::Broken && self.chance(8) {
            let wire = u8::try_from(self.numbers.below(8)).unwrap();
            varint(number << 3 | u64::from(wire), into);
            return self.payload(wire, into);
        }
        let (wire, payload) = match field.kind() {
            Kind::Message(inner) => {
                let mut payload = Vec::new();
                if depth > 0 {
                    self.fields(&inner, depth - 1, &mut payload);
                }
                (BYTES, payload)
            }
            Kind::String => (BYTES, self.text(field.name())),
            Kind::Bytes => (BYTES, self.junk(20)),
            Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => {
                (FIXED64, self.number().to_le_bytes().to_vec())
            }
            Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => {
                (FIXED32, self.number().to_le_bytes()[..4].to_vec())
            }
            Kind::Bool => (VARINT, vec![u8::from(self.chance(50))]),
            _ => {
                let mut payload = Vec::new();
                varint(self.number(), &mut payload);
                (VARINT, payload)
            }
        };
        varint(number << 3 | u64::from(wire), into);
        if wire == BYTES {
            varint(payload.len() as u64, into);
        }
        into.extend(payload);
    }

    fn number(&mut self) -> u64 {
        if self.style == Style::Sensible {
            return self.numbers.below(4) as u64;
        }
        match self.chance(60) {
            true => EXTREMES[self.numbers.below(EXTREMES.len())],
            false => self.numbers.next(),
        }
    }

    fn text(&mut self, field: &str) -> Vec<u8> {
        let style = self.style;
        if style == Style::Broken && self.chance(15) {
            // Mostly no UTF-8.
            return self.junk(40);
        }
        if style != Style::Sensible && self.chance(40) {
            return self.strange();
        }
        let text = match field {
            "name" | "parent" | "instance" => self.name(),
            "request_id" if self.chance(50) => String::new(),
            "request_id" => uuid::Uuid::from_u64_pair(self.numbers.next(), 1).to_string(),
            "filter" if self.chance(50) => self.one(FILTERS).to_owned(),
            "etag" | "page_token" | "filter" | "order_by" if self.chance(80) => String::new(),
            _ => self.one(WORDS).to_owned(),
        };
        text.into_bytes()
    }

    fn strange(&mut self) -> Vec<u8> {
        match self.numbers.below(10) {
            0 => "x".repeat(self.numbers.below(6000)).into_bytes(),
            1 => "\u{7f}é".repeat(self.numbers.below(400)).into_bytes(),
            2 if self.chance(2) => vec![b'y'; 300_000],
            3 => {
                // A name of a resource, with something in it that does not belong there.
                let mut name = self.name();
                let at = self.numbers.below(name.len() + 1);
                let strange = self.one(STRANGE);
                name.insert_str(at, strange);
                name.into_bytes()
            }
            4 => self
                .one(FILTERS)
                .repeat(self.numbers.below(40))
                .into_bytes(),
            _ => self.one(STRANGE).as_bytes().to_vec(),
        }
    }

    /// Up to `most` bytes of any kind.
    fn junk(&mut self, most: usize) -> Vec<u8> {
        let length = self.numbers.below(most + 1);
        let bytes = (0..length).map(|_| self.numbers.next().to_le_bytes()[0]);
        bytes.collect()
    }

    /// What may follow a tag of that wire type, right or wrong.
    fn payload(&mut self, wire: u8, into: &mut Vec<u8>) {
        match wire {
            VARINT => varint(self.numbers.next(), into),
            // One that does not end within ten bytes.
            1 if self.chance(30) => into.extend([0xff; 12]),
            BYTES => {
                let junk = self.junk(30);
                let claimed = match self.chance(50) {
                    true => junk.len() as u64,
                    false => EXTREMES[self.numbers.below(EXTREMES.len())],
                };
                varint(claimed, into);
                into.extend(junk);
            }
            _ => into.extend(self.junk(8)),
        }
    }

    /// Breaks the bytes of a message in up to three ways.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.numbers.below(4) {
            let at = self.numbers.below(bytes.len() + 1);
            match self.numbers.below(6) {
                0 => bytes.truncate(at),
                1 if at < bytes.len() => bytes[at] ^= 1 << self.numbers.below(8),
                2 => {
                    let junk = self.junk(12);
                    bytes.splice(at..at, junk);
                }
                3 => {
                    // An unknown field; 2^29 - 1 is the largest number.
                    let number = 1 + self.numbers.below((1 << 29) - 1) as u64;
                    let wire = u8::try_from(self.numbers.below(8)).unwrap();
                    varint(number << 3 | u64::from(wire), bytes);
                    self.payload(wire, bytes);
                }
                4 => self.nest(bytes),
                _ => varint(EXTREMES[self.numbers.below(EXTREMES.len())], bytes),
            }
        }
    }

    /// Messages in each other, or groups in each other, deeper than any parser follows.
    fn nest(&mut self, bytes: &mut Vec<u8>) {
        let levels = 50 + self.numbers.below(3000);
        let field = 1 + self.numbers.below(20) as u64;
        if self.chance(50) {
            const START_GROUP: u64 = 3;
            (0..levels).for_each(|_| varint(field << 3 | START_GROUP, bytes));
            return;
        }
        let mut inner = Vec::new();
        for _ in 0..levels.min(200) {
            let mut outer = Vec::new();
            varint(field << 3 | u64::from(BYTES), &mut outer);
            varint(inner.len() as u64, &mut outer);
            outer.append(&mut inner);
            inner = outer;
        }
        bytes.extend(inner);
    }
}

fn varint(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    into.push(value.to_le_bytes()[0]);
}
