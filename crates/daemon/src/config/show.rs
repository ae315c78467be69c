//! The configuration for people: the default one with its documentation, and the one that holds with where each value is from.

use std::fmt::Write;

use super::{Config, Effect, Key, Loaded};

/// Every key with its documentation and its default: a valid configuration that changes nothing.
pub(crate) fn default_text() -> String {
    let mut text = String::from(
        "# Longshore's configuration. Every key is shown with its default.\n\
         # conf.d/*.toml beside this file are merged into it key by key, in the order of their names; lists are replaced as a whole.\n\
         # Flags win over files. Keys marked \"reloaded\" follow SIGHUP, the others a restart of the daemon; pods go on in either case.\n",
    );
    for table in Config::TABLES {
        if !table.name.is_empty() {
            text.push('\n');
            comment(&mut text, table.doc);
            push(&mut text, format_args!("[{}]\n", table.name));
        }
        for key in table.keys {
            if table.name.is_empty() {
                text.push('\n');
            }
            document(&mut text, key);
        }
    }
    text
}

fn document(text: &mut String, key: &Key) {
    comment(text, key.doc);
    match key.effect {
        Effect::Reload => text.push_str("# (reloaded)\n"),
        Effect::Restart => {}
    }
    // A default that follows from other keys must go on following them.
    let hidden = if key.derived { "# " } else { "" };
    push(
        text,
        format_args!("{hidden}{} = {}\n", last(key.name), key.default),
    );
}

fn comment(text: &mut String, lines: &[&str]) {
    for line in lines {
        push(text, format_args!("#{line}\n"));
    }
}

/// The values that hold, as a valid configuration; a comment behind each says where it comes from.
pub(crate) fn dump(loaded: &Loaded) -> String {
    let mut text = String::new();
    match loaded.files().count() {
        0 => text.push_str("# no file was read\n"),
        _ => text.push_str("# files, the last one wins:\n"),
    }
    for file in loaded.files() {
        push(&mut text, format_args!("#   {}\n", file.display()));
    }
    let mut table = "";
    for (name, value) in loaded.config.values() {
        let section = name.rsplit_once('.').map_or("", |(section, _)| section);
        if section != table {
            push(&mut text, format_args!("\n[{section}]\n"));
            table = section;
        }
        let setting = format!("{} = {value}", last(name));
        push(
            &mut text,
            format_args!("{setting:<45} # {}\n", loaded.origin(name)),
        );
    }
    text
}

/// What `config check` says of a configuration without mistakes.
pub(crate) fn verdict(loaded: &Loaded) -> String {
    let files: Vec<_> = loaded
        .files()
        .map(|file| file.display().to_string())
        .collect();
    match files.is_empty() {
        true => "no configuration file: the defaults hold\n".to_owned(),
        false => format!("good: {}\n", files.join(", ")),
    }
}

fn last(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, last)| last)
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _infallible = text.write_fmt(arguments);
}
