//! Enumerations whose values have a name in the metadata and in filters.

/// Declares one: each value with its name.
macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every value there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in the metadata and in filters.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The value of that name.
            ///
            /// # Errors
            /// INTERNAL: only the metadata is read with it.
            pub fn parse(text: &str) -> $crate::domain::Result<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text).ok_or_else(|| {
                    $crate::domain::Error::internal(format!("unknown {} {text}", stringify!($name)))
                })
            }
        }
    };
}
pub(crate) use states;
