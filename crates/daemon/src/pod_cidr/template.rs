//! The template of a CNI configuration: the part of Go's `text/template` that such templates are written in.
//!
//! ```text
//! {{.PodCIDR}}                                    the first range
//! {{range .PodCIDRRanges}}…{{.}}…{{else}}…{{end}}   each; also {{range $r := …}} and {{range $i, $r := …}}
//! {{range .Routes}}…{{end}}                       0.0.0.0/0 and ::/0, as far as there is a range of the family
//! {{if $i}}, {{else}}…{{end}}                     what is not empty and not 0
//! {{index .PodCIDRRanges 0}} {{len .Routes}}
//! {{- … -}} {{/* … */}}                           white space beside it goes; nothing
//! ```
//!
//! Whatever else Go knows is refused by name. It is the data that containerd gives its `conf_template`.

use std::net::IpAddr;

/// Why a template cannot be rendered.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error(
        "{{{{{action}}}}}: {word:?} is not known; a template may have .PodCIDR, .PodCIDRRanges, .Routes, range, if, else, end, index, len and variables"
    )]
    Unknown { action: String, word: String },
    #[error("{{{{{action}}}}} {problem}")]
    Wrong {
        action: String,
        problem: &'static str,
    },
    #[error("an action that begins with {{{{ has no }}}}")]
    Unclosed,
    #[error("{{{{{0}}}}} has no {{{{end}}}}")]
    Unended(String),
}

/// What a template is about.
#[derive(Debug)]
pub(crate) struct Data<'a> {
    /// In the order in which they were given; at least one.
    pub(crate) ranges: &'a [(IpAddr, u8)],
}

/// Fills in a template.
pub(crate) fn render(template: &str, data: &Data<'_>) -> Result<String, TemplateError> {
    let mut parser = Parser {
        tokens: tokens(template)?,
        next: 0,
    };
    let (nodes, end) = parser.nodes()?;
    if let Some(end) = end {
        return Err(wrong(&end, "ends nothing that has begun"));
    }
    let mut scope = Scope::new(data);
    let mut text = String::new();
    scope.render(&nodes, &mut text)?;
    Ok(text)
}

#[derive(Debug, Clone)]
enum Token {
    Text(String),
    Action(String),
}

fn tokens(template: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let (mut rest, mut trim) = (template, false);
    while let Some((text, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}").ok_or(TemplateError::Unclosed)?;
        let mut text = if trim { text.trim_start() } else { text };
        let mut action = action;
        // A hyphen trims where white space is between it and the action.
        let spaced = |rest: &str| rest.is_empty() || rest.starts_with(char::is_whitespace);
        if let Some(cut) = action.strip_prefix('-').filter(|cut| spaced(cut)) {
            (text, action) = (text.trim_end(), cut);
        }
        let spaced = |rest: &str| rest.is_empty() || rest.ends_with(char::is_whitespace);
        trim = false;
        if let Some(cut) = action.strip_suffix('-').filter(|cut| spaced(cut)) {
            (trim, action) = (true, cut);
        }
        tokens.push(Token::Text(text.to_owned()));
        let action = action.trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            tokens.push(Token::Action(action.to_owned()));
        }
        rest = after;
    }
    let rest = if trim { rest.trim_start() } else { rest };
    tokens.push(Token::Text(rest.to_owned()));
    Ok(tokens)
}

#[derive(Debug)]
enum Node {
    Text(String),
    Value(Expression),
    If {
        condition: Expression,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Range {
        /// For the place and for what is there.
        variables: [Option<String>; 2],
        over: Expression,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

/// What an action has between its braces, and the action, for refusals.
#[derive(Debug, Clone)]
struct Expression {
    action: String,
    words: Vec<String>,
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
}

impl Parser {
    /// Nodes up to an `end` or `else`, which is returned, or to the end of the template.
    fn nodes(&mut self) -> Result<(Vec<Node>, Option<String>), TemplateError> {
        let mut nodes = Vec::new();
        while let Some(token) = self.tokens.get(self.next).cloned() {
            self.next += 1;
            let action = match token {
                Token::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Token::Action(action) => action,
            };
            let words: Vec<String> = action.split_whitespace().map(str::to_owned).collect();
            let of = |words: &[String]| Expression {
                action: action.clone(),
                words: words.to_vec(),
            };
            match words.first().map(String::as_str) {
                None => return Err(wrong(&action, "is empty")),
                Some("end" | "else") => return Ok((nodes, Some(action))),
                Some("if") => {
                    let (then, otherwise) = self.branches(&action)?;
                    nodes.push(Node::If {
                        condition: of(&words[1..]),
                        then,
                        otherwise,
                    });
                }
                Some("range") => {
                    let (variables, over) = range_clause(&action, &words[1..])?;
                    let (body, otherwise) = self.branches(&action)?;
                    nodes.push(Node::Range {
                        variables,
                        over: of(&over),
                        body,
                        otherwise,
                    });
                }
                // They would begin something that an `end` ends, or stand for more than a value.
                Some(word @ ("with" | "define" | "block" | "template" | "break" | "continue")) => {
                    return Err(TemplateError::Unknown {
                        word: word.to_owned(),
                        action: action.clone(),
                    });
                }
                Some(_) => nodes.push(Node::Value(of(&words))),
            }
        }
        Ok((nodes, None))
    }

    fn branches(&mut self, begun: &str) -> Result<(Vec<Node>, Vec<Node>), TemplateError> {
        let unended = || TemplateError::Unended(begun.to_owned());
        let (first, mut end) = self.nodes()?;
        let mut second = Vec::new();
        if end.as_deref() == Some("else") {
            (second, end) = self.nodes()?;
        }
        match end.as_deref() {
            Some("end") => Ok((first, second)),
            Some("else") => Err(wrong("else", "comes twice")),
            Some(other) => Err(TemplateError::Unknown {
                action: other.to_owned(),
                word: other.to_owned(),
            }),
            None => Err(unended()),
        }
    }
}

/// `EXPRESSION`, `$v := EXPRESSION` or `$i, $v := EXPRESSION`.
fn range_clause(
    action: &str,
    words: &[String],
) -> Result<([Option<String>; 2], Vec<String>), TemplateError> {
    let Some(assigned) = words.iter().position(|word| word == ":=") else {
        return Ok(([None, None], words.to_vec()));
    };
    let names = words[..assigned].join(" ");
    let names: Vec<&str> = names
        .split([',', ' '])
        .filter(|name| !name.is_empty())
        .collect();
    if names.iter().any(|name| !name.starts_with('$')) {
        return Err(wrong(action, "assigns to what is no variable"));
    }
    let variables = match names[..] {
        [value] => [None, Some(value.to_owned())],
        [place, value] => [Some(place.to_owned()), Some(value.to_owned())],
        _ => return Err(wrong(action, "has neither one variable nor two")),
    };
    Ok((variables, words[assigned + 1..].to_vec()))
}

#[derive(Debug, Clone)]
enum Value {
    Root,
    Text(String),
    List(Vec<String>),
    Number(usize),
}

impl Value {
    fn holds(&self) -> bool {
        match self {
            Value::Root => true,
            Value::Text(text) => !text.is_empty(),
            Value::List(list) => !list.is_empty(),
            Value::Number(number) => *number != 0,
        }
    }
}

struct Scope {
    ranges: Vec<String>,
    routes: Vec<String>,
    dot: Value,
    variables: Vec<(String, Value)>,
}

impl Scope {
    fn new(data: &Data<'_>) -> Scope {
        let mut routes = Vec::new();
        for (has, route) in [
            (IpAddr::is_ipv4 as fn(&IpAddr) -> bool, "0.0.0.0/0"),
            (IpAddr::is_ipv6, "::/0"),
        ] {
            if data.ranges.iter().any(|(network, _)| has(network)) {
                routes.push(route.to_owned());
            }
        }
        let ranges = data.ranges.iter();
        Scope {
            ranges: ranges
                .map(|(network, prefix)| format!("{network}/{prefix}"))
                .collect(),
            routes,
            dot: Value::Root,
            variables: Vec::new(),
        }
    }

    fn render(&mut self, nodes: &[Node], text: &mut String) -> Result<(), TemplateError> {
        for node in nodes {
            match node {
                Node::Text(literal) => text.push_str(literal),
                Node::Value(expression) => match self.value(expression)? {
                    Value::Text(value) => text.push_str(&value),
                    Value::Number(number) => text.push_str(&number.to_string()),
                    // Go prints them in a form that is no JSON.
                    Value::List(_) | Value::Root => {
                        return Err(wrong(
                            &expression.action,
                            "is a list; say which, or range over it",
                        ));
                    }
                },
                Node::If {
                    condition,
                    then,
                    otherwise,
                } => {
                    let holds = self.value(condition)?.holds();
                    self.render(if holds { then } else { otherwise }, text)?;
                }
                Node::Range {
                    variables,
                    over,
                    body,
                    otherwise,
                } => {
                    let Value::List(list) = self.value(over)? else {
                        return Err(wrong(&over.action, "is over what is no list"));
                    };
                    if list.is_empty() {
                        self.render(otherwise, text)?;
                    }
                    self.each(variables, list, body, text)?;
                }
            }
        }
        Ok(())
    }

    fn each(
        &mut self,
        [place, item]: &[Option<String>; 2],
        list: Vec<String>,
        body: &[Node],
        text: &mut String,
    ) -> Result<(), TemplateError> {
        let (dot, known) = (self.dot.clone(), self.variables.len());
        for (index, value) in list.into_iter().enumerate() {
            let value = Value::Text(value);
            let place = place
                .iter()
                .map(|name| (name.clone(), Value::Number(index)));
            self.variables.extend(place);
            let item = item.iter().map(|name| (name.clone(), value.clone()));
            self.variables.extend(item);
            self.dot = value;
            self.render(body, text)?;
            self.variables.truncate(known);
        }
        self.dot = dot;
        Ok(())
    }

    fn value(&self, expression: &Expression) -> Result<Value, TemplateError> {
        let action = &expression.action;
        let words: Vec<&str> = expression.words.iter().map(String::as_str).collect();
        match words[..] {
            [] => Err(wrong(action, "names nothing")),
            ["len", of] => match self.word(action, of)? {
                Value::List(list) => Ok(Value::Number(list.len())),
                Value::Text(text) => Ok(Value::Number(text.len())),
                Value::Number(_) | Value::Root => Err(wrong(action, "counts what is no list")),
            },
            ["index", of, at] => {
                let Value::List(list) = self.word(action, of)? else {
                    return Err(wrong(action, "looks into what is no list"));
                };
                let at = match self.word(action, at)? {
                    Value::Number(at) => at,
                    Value::Root | Value::Text(_) | Value::List(_) => {
                        return Err(wrong(action, "has no number for the place"));
                    }
                };
                let item = list.get(at).cloned().map(Value::Text);
                item.ok_or_else(|| wrong(action, "is beyond the end of the list"))
            }
            [word] => self.word(action, word),
            [first, second, ..] => Err(TemplateError::Unknown {
                action: action.clone(),
                // What is known has too much behind it.
                word: match self.word(action, first) {
                    Ok(_) => second.to_owned(),
                    Err(_) => first.to_owned(),
                },
            }),
        }
    }

    fn word(&self, action: &str, word: &str) -> Result<Value, TemplateError> {
        if let Ok(number) = word.parse() {
            return Ok(Value::Number(number));
        }
        let unknown = || TemplateError::Unknown {
            action: action.to_owned(),
            word: word.to_owned(),
        };
        let field = match (word, &self.dot) {
            (".", dot) => return Ok(dot.clone()),
            ("$", _) => return Ok(Value::Root),
            // Within a range the dot is an item, which has no fields.
            (field, Value::Root) if field.starts_with('.') => field,
            (field, _) if field.starts_with("$.") => &field[1..],
            (name, _) => {
                let found = self.variables.iter().rev().find(|(known, _)| known == name);
                return found.map(|(_, value)| value.clone()).ok_or_else(unknown);
            }
        };
        match field {
            ".PodCIDR" => Ok(Value::Text(
                self.ranges.first().cloned().unwrap_or_default(),
            )),
            ".PodCIDRRanges" => Ok(Value::List(self.ranges.clone())),
            ".Routes" => Ok(Value::List(self.routes.clone())),
            _ => Err(unknown()),
        }
    }
}

fn wrong(action: &str, problem: &'static str) -> TemplateError {
    TemplateError::Wrong {
        action: action.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &str, ranges: &[&str]) -> Result<String, TemplateError> {
        let ranges: Vec<(IpAddr, u8)> = ranges
            .iter()
            .map(|range| {
                let (network, prefix) = range.split_once('/').unwrap();
                (network.parse().unwrap(), prefix.parse().unwrap())
            })
            .collect();
        render(template, &Data { ranges: &ranges })
    }

    #[test]
    fn what_users_of_the_peers_write_is_rendered() {
        let dual = ["10.1.2.0/24", "fd00:1::/64"];
        // The one of containerd's documentation.
        let template = r#"{"ranges": [{{range $i, $range := .PodCIDRRanges}}{{if $i}}, {{end}}[{"subnet": "{{$range}}"}]{{end}}],
            "routes": [{{range $i, $route := .Routes}}{{if $i}}, {{end}}{"dst": "{{$route}}"}{{end}}]}"#;
        let text = rendered(template, &dual).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value,
            serde_json::json!({
                "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00:1::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            })
        );
        for (template, expected) in [
            ("{{.PodCIDR}}", "10.1.2.0/24"),
            ("a {{- .PodCIDR -}} b", "a10.1.2.0/24b"),
            ("a{{/* no {{ }} */}}b", "no"),
            ("{{ /* nothing */ }}b", "b"),
            ("{{range .Routes}}<{{.}}>{{end}}", "<0.0.0.0/0><::/0>"),
            (
                "{{range $r := .Routes}}<{{$r}}>{{end}}",
                "<0.0.0.0/0><::/0>",
            ),
            (
                "{{range .Routes}}{{$.PodCIDR}} {{end}}",
                "10.1.2.0/24 10.1.2.0/24 ",
            ),
            (
                "{{index .PodCIDRRanges 1}} {{len .Routes}}",
                "fd00:1::/64 2",
            ),
            ("{{if .Routes}}yes{{else}}no{{end}}", "yes"),
            ("no action", "no action"),
        ] {
            match expected {
                // Comments end at the first braces, as everything does.
                "no" => assert!(rendered(template, &dual).is_err()),
                expected => assert_eq!(rendered(template, &dual).unwrap(), expected, "{template}"),
            }
        }
        assert_eq!(
            rendered("{{range .Routes}}{{.}}{{end}}", &["fd00::/64"]).unwrap(),
            "::/0"
        );
    }

    #[test]
    fn the_rest_of_the_language_is_refused_by_name() {
        for (template, named) in [
            ("{{.NodeName}}", "\".NodeName\""),
            ("{{printf \"%s\" .PodCIDR}}", "\"printf\""),
            ("{{.PodCIDR | html}}", "\"|\""),
            ("{{if eq 1 1}}{{end}}", "\"eq\""),
            ("{{with .PodCIDR}}{{.}}{{end}}", "\"with\""),
            ("{{template \"x\"}}", "\"template\""),
            (
                "{{if .Routes}}a{{else if .PodCIDR}}b{{end}}",
                "\"else if .PodCIDR\"",
            ),
            ("{{$x}}", "\"$x\""),
            ("{{range .Routes}}{{.PodCIDR}}{{end}}", "\".PodCIDR\""),
            ("{{range .PodCIDR}}{{end}}", "no list"),
            ("{{range a, b := .Routes}}{{end}}", "no variable"),
            ("{{.Routes}}", "is a list"),
            ("{{index .Routes 7}}", "beyond the end"),
            ("{{range .Routes}}", "no {{end}}"),
            ("{{end}}", "ends nothing"),
            ("{{.PodCIDR", "no }}"),
            ("{{}}", "is empty"),
        ] {
            let error = rendered(template, &["10.1.2.0/24"])
                .unwrap_err()
                .to_string();
            assert!(error.contains(named), "{template}: {error}");
        }
    }
}
