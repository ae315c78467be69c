use super::value::{Value, Wrong};

/// What is known of a key without its value.
#[derive(Debug)]
pub(crate) struct Key {
    /// With its table, such as `network.mtu`.
    pub(crate) name: &'static str,
    /// Lines of documentation, as they stand in the source.
    pub(crate) doc: &'static [&'static str],
    /// TOML.
    pub(crate) default: &'static str,
    /// The default follows from other settings; `default` is what that usually comes to.
    pub(crate) derived: bool,
    pub(crate) effect: Effect,
    /// Whether a file may say this.
    pub(crate) check: fn(&toml::Spanned<toml::de::DeValue<'_>>) -> Result<(), Wrong>,
}

/// A table of keys.
#[derive(Debug)]
pub(crate) struct Table {
    /// Empty for the keys that stand before the first table.
    pub(crate) name: &'static str,
    pub(crate) doc: &'static [&'static str],
    pub(crate) keys: &'static [Key],
}

/// When a changed value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// At the daemon's next start.
    Restart,
    /// At the next SIGHUP.
    Reload,
}

/// Keys whose values differ between two configurations.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Changes {
    /// In effect now.
    pub(crate) applied: Vec<&'static str>,
    /// In effect after a restart.
    pub(crate) waiting: Vec<&'static str>,
}

impl Changes {
    pub(super) fn note<T: Value + PartialEq>(&mut self, name: &'static str, old: &T, new: &T) {
        if old == new {
            return;
        }
        match T::EFFECT {
            Effect::Restart => self.waiting.push(name),
            Effect::Reload => {
                old.adopt(new);
                self.applied.push(name);
            }
        }
    }
}

/// Settings of the daemon: `name: Type = default;`, or `name: Type = usual or expression;` where the default follows from keys above it.
/// The documentation of a key is what `longshored config default` prints.
macro_rules! settings {
    (
        $(#[$config_doc:meta])* $config:ident {
            $( $(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:tt $(or $derived:expr)?; )*
        }
        $( $(#[doc = $table_doc:literal])+ $table:ident: $section:ident {
            $( $(#[doc = $inner_doc:literal])+ $inner:ident: $inner_type:ty = $inner_default:tt $(or $inner_derived:expr)?; )*
        } )*
    ) => {
        $(#[$config_doc])*
        #[derive(Debug, Clone)]
        pub(crate) struct $config {
            $( $(#[doc = $doc])+ pub(crate) $key: $type, )*
            $( $(#[doc = $table_doc])+ pub(crate) $table: $section, )*
        }

        $(
            $(#[doc = $table_doc])+
            #[derive(Debug, Clone)]
            pub(crate) struct $section {
                $( $(#[doc = $inner_doc])+ pub(crate) $inner: $inner_type, )*
            }
        )*

        impl $config {
            /// Every table, in the order of the source.
            pub(crate) const TABLES: &[$crate::config::schema::Table] = &[
                $crate::config::schema::Table {
                    name: "",
                    doc: &[],
                    keys: &[$( $crate::config::schema::key!(
                        stringify!($key), $type, $default, [$($derived)?], [$($doc),+]
                    ), )*],
                },
                $( $crate::config::schema::Table {
                    name: stringify!($table),
                    doc: &[$($table_doc),+],
                    keys: &[$( $crate::config::schema::key!(
                        concat!(stringify!($table), ".", stringify!($inner)),
                        $inner_type, $inner_default, [$($inner_derived)?], [$($inner_doc),+]
                    ), )*],
                }, )*
            ];

            /// The merged values, and defaults for the rest.
            pub(super) fn resolve(
                merged: &$crate::config::merge::Merged,
            ) -> Result<Self, $crate::config::Problem> {
                $( let $key: $type = match merged.get(stringify!($key))? {
                    Some(value) => value,
                    None => $crate::config::schema::default!(stringify!($key), $default $(, $derived)?),
                }; )*
                $(
                    let $table = {
                        $( let $inner: $inner_type =
                            match merged.get(concat!(stringify!($table), ".", stringify!($inner)))? {
                                Some(value) => value,
                                None => $crate::config::schema::default!(
                                    concat!(stringify!($table), ".", stringify!($inner)),
                                    $inner_default $(, $inner_derived)?
                                ),
                            }; )*
                        $section { $($inner,)* }
                    };
                )*
                Ok(Self { $($key,)* $($table,)* })
            }

            /// Every key with its value, in the order of [`Self::TABLES`].
            pub(crate) fn values(&self) -> Vec<(&'static str, toml::Value)> {
                use $crate::config::Value as _;
                vec![
                    $( (stringify!($key), self.$key.write()), )*
                    $( $(
                        (concat!(stringify!($table), ".", stringify!($inner)), self.$table.$inner.write()),
                    )* )*
                ]
            }

            /// Takes what may change while the daemon runs from `new`.
            pub(super) fn adopt(&self, new: &Self) -> $crate::config::schema::Changes {
                let mut changes = $crate::config::schema::Changes::default();
                $( changes.note(stringify!($key), &self.$key, &new.$key); )*
                $( $(
                    changes.note(
                        concat!(stringify!($table), ".", stringify!($inner)),
                        &self.$table.$inner,
                        &new.$table.$inner,
                    );
                )* )*
                changes
            }
        }
    };
}

macro_rules! key {
    ($name:expr, $type:ty, $default:tt, [$($derived:expr)?], [$($doc:literal),+]) => {
        $crate::config::schema::Key {
            name: $name,
            doc: &[$($doc),+],
            default: stringify!($default),
            derived: !<[&str]>::is_empty(&[$(stringify!($derived))?]),
            effect: <$type as $crate::config::Value>::EFFECT,
            check: |value| <$type as $crate::config::Value>::read(value).map(drop),
        }
    };
}

macro_rules! default {
    ($name:expr, $default:tt) => {
        $crate::config::merge::default($name, stringify!($default))?
    };
    ($name:expr, $default:tt, $derived:expr) => {
        $derived
    };
}

pub(super) use {default, key, settings};
