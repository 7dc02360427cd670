//! Index of all descriptors, by the names that clients ask for.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use prost_reflect::{DescriptorPool, EnumDescriptor, FileDescriptor, MessageDescriptor};
use tonic::Code;

use crate::{api::method, domain::Result};

/// A question of a client.
#[derive(Clone, Copy, Debug)]
pub(super) enum Question<'a> {
    /// A file by its name.
    File(&'a str),
    /// The file that defines a symbol.
    Symbol(&'a str),
    /// The file that defines an extension, by the extended message and the number.
    Extension(&'a str, i32),
    /// The numbers of all extensions of a message.
    ExtensionsOf(&'a str),
    /// The names of all services.
    Services,
}

/// An answer. An error does not end the stream.
#[derive(Debug)]
pub(super) enum Answer<'a> {
    File(&'a Bytes),
    /// The name of a message, and the numbers of its extensions.
    Extensions(String, Vec<i32>),
    Services(&'a [String]),
    Error(Code, &'static str),
}

/// All files with their options, and their contents by name.
#[derive(Debug)]
pub(super) struct Index {
    files: HashMap<String, Bytes>,
    /// File of each symbol.
    symbols: HashMap<String, String>,
    /// Extensions of each message: their numbers and files.
    extensions: HashMap<String, BTreeMap<u32, String>>,
    services: Vec<String>,
}

impl Index {
    /// # Errors
    /// INTERNAL when the descriptors cannot be read.
    pub(super) fn load() -> Result<Self> {
        Ok(Self::of(&method::served()?))
    }

    fn of(pool: &DescriptorPool) -> Self {
        let mut index = Self {
            files: HashMap::new(),
            symbols: HashMap::new(),
            extensions: HashMap::new(),
            services: Vec::new(),
        };
        for file in pool.files() {
            let bytes = file.encode_to_vec().into();
            index.files.insert(file.name().to_owned(), bytes);
            index.add(&file);
        }
        for message in pool.all_messages() {
            let of_message = index.extensions.entry(message.full_name().to_owned());
            let of_message = of_message.or_default();
            for extension in message.extensions() {
                let file = extension.parent_file().name().to_owned();
                of_message.insert(extension.number(), file);
            }
        }
        index.services.sort();
        index
    }

    fn add(&mut self, file: &FileDescriptor) {
        let mut names = Vec::new();
        for message in file.messages() {
            of_message(&message, &mut names);
        }
        for kind in file.enums() {
            of_enum(&kind, &mut names);
        }
        names.extend(file.extensions().map(|it| it.full_name().to_owned()));
        for service in file.services() {
            self.services.push(service.full_name().to_owned());
            names.push(service.full_name().to_owned());
            names.extend(service.methods().map(|it| it.full_name().to_owned()));
        }
        let file = file.name();
        let named = names.into_iter().map(|name| (name, file.to_owned()));
        self.symbols.extend(named);
    }

    pub(super) fn answer(&self, question: Option<Question<'_>>) -> Answer<'_> {
        let file = |name: Option<&String>, missing| {
            let bytes = name.and_then(|name| self.files.get(name));
            bytes.map_or(Answer::Error(Code::NotFound, missing), Answer::File)
        };
        match question {
            None => Answer::Error(Code::InvalidArgument, "the request asks for nothing"),
            Some(Question::Services) => Answer::Services(&self.services),
            Some(Question::File(name)) => {
                let missing = Answer::Error(Code::NotFound, "there is no such file");
                self.files.get(name).map_or(missing, Answer::File)
            }
            Some(Question::Symbol(name)) => file(self.symbols.get(name), "there is no such symbol"),
            Some(Question::Extension(message, number)) => {
                let of_message = self.extensions.get(message);
                let number = u32::try_from(number).ok();
                let found = of_message.zip(number).and_then(|(all, it)| all.get(&it));
                file(found, "there is no such extension")
            }
            Some(Question::ExtensionsOf(name)) => match self.extensions.get(name) {
                None => Answer::Error(Code::NotFound, "there is no such message"),
                Some(all) => {
                    let numbers = all.keys().filter_map(|number| i32::try_from(*number).ok());
                    Answer::Extensions(name.to_owned(), numbers.collect())
                }
            },
        }
    }
}

/// Names of a message and of everything in it.
fn of_message(message: &MessageDescriptor, names: &mut Vec<String>) {
    names.push(message.full_name().to_owned());
    names.extend(message.fields().map(|it| it.full_name().to_owned()));
    names.extend(message.oneofs().map(|it| it.full_name().to_owned()));
    let extensions = message.child_extensions();
    names.extend(extensions.map(|it| it.full_name().to_owned()));
    for inner in message.child_messages() {
        of_message(&inner, names);
    }
    for kind in message.child_enums() {
        of_enum(&kind, names);
    }
}

/// Names of an enum and of its values. By protobuf's rules the values are siblings of the enum.
fn of_enum(kind: &EnumDescriptor, names: &mut Vec<String>) {
    names.push(kind.full_name().to_owned());
    names.extend(kind.values().map(|it| it.full_name().to_owned()));
}
