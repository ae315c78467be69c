//! The instructions against the words of the module, by an interpreter of the few that are used.

use oci_plan::DeviceRule;
use proptest::prelude::*;

use super::super::rule::{MKNOD, READ, WRITE, written};
use super::*;

#[derive(Debug, Clone, Copy)]
struct Request {
    node_type: char,
    major: u32,
    minor: u32,
    access: u8,
}

fn request(text: &str) -> Request {
    let rule = written(&format!("allow {text}"));
    Request {
        node_type: rule.node_type,
        major: rule.major.unwrap(),
        minor: rule.minor.unwrap(),
        access: rule.access.chars().map(bit).sum(),
    }
}

fn bit(letter: char) -> u8 {
    match letter {
        'r' => READ,
        'w' => WRITE,
        'm' => MKNOD,
        _ => unreachable!(),
    }
}

fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    compile(&Rules::parse(rules).unwrap()).unwrap()
}

fn texts(rules: &[&str]) -> Vec<DeviceRule> {
    rules.iter().map(|text| written(text)).collect()
}

fn run(program: &[Instruction], request: Request) -> bool {
    let node_type = if request.node_type == 'c' { 2 } else { 1 };
    let access_type = (u32::from(request.access) << 16) | node_type;
    let context = [access_type, request.major, request.minor];
    let mut registers: [Option<u32>; 11] = [None; 11];
    let mut next = 0;
    loop {
        let instruction = program[next];
        next += 1;
        let (target, source) = instruction.registers();
        let read = |register: u8| registers[usize::from(register)].unwrap();
        let operand = instruction.immediate as u32;
        let far = usize::try_from(instruction.offset).unwrap();
        let (result, jump) = match instruction.code {
            LOAD_WORD => (Some(context[far / 4]), false),
            MOVE_K => (Some(operand), false),
            MOVE_X => (Some(read(source)), false),
            AND_K => (Some(read(target) & operand), false),
            XOR_K => (Some(read(target) ^ operand), false),
            OR_X => (Some(read(target) | read(source)), false),
            SHIFT_LEFT_K => (Some(read(target) << operand), false),
            SHIFT_RIGHT_K => (Some(read(target) >> operand), false),
            GOTO => (None, true),
            IF_EQUAL_K => (None, read(target) == operand),
            IF_NOT_EQUAL_K => (None, read(target) != operand),
            IF_ANY_BIT_K => (None, read(target) & operand != 0),
            EXIT => return read(RESULT) == 1,
            code => panic!("instruction {code:#x}"),
        };
        if result.is_some() {
            registers[usize::from(target)] = result;
        }
        if jump {
            next += far;
        }
    }
}

/// What the kernel refuses before it even looks at values.
fn assert_well_formed(program: &[Instruction]) {
    let mut reached = vec![false; program.len()];
    reached[0] = true;
    for (index, instruction) in program.iter().enumerate() {
        assert!(reached[index], "nothing leads to {index} of {program:?}");
        let jumps = matches!(
            instruction.code,
            GOTO | IF_EQUAL_K | IF_NOT_EQUAL_K | IF_ANY_BIT_K
        );
        if jumps {
            reached[index + 1 + usize::try_from(instruction.offset).unwrap()] = true;
        }
        if !matches!(instruction.code, GOTO | EXIT) {
            reached[index + 1] = true;
        }
    }
}

/// The last rule about each access decides over it.
fn reference(rules: &[DeviceRule], request: Request) -> bool {
    let number = |own: Option<u32>, other| own.is_none_or(|own| own == other);
    ['r', 'w', 'm']
        .into_iter()
        .filter(|letter| request.access & bit(*letter) != 0)
        .all(|letter| {
            let last = rules.iter().rev().find(|rule| {
                (rule.node_type == 'a' || rule.node_type == request.node_type)
                    && number(rule.major, request.major)
                    && number(rule.minor, request.minor)
                    && rule.access.contains(letter)
            });
            last.is_none_or(|rule| rule.allow)
        })
}

fn some_rule() -> impl Strategy<Value = DeviceRule> {
    let number = |numbers: &'static [u32]| prop::option::of(prop::sample::select(numbers));
    let access = prop::sample::subsequence(vec!['r', 'w', 'm'], 1..=3);
    let node_type = prop::sample::select(&['a', 'b', 'c'][..]);
    let major = number(&[0, 1, 10, 4095, 4096, u32::MAX]);
    let minor = number(&[0, 3, 5, 0xf_ffff, 0x10_0003, u32::MAX]);
    (any::<bool>(), node_type, major, minor, access).prop_map(
        |(allow, node_type, major, minor, access)| DeviceRule {
            allow,
            node_type,
            major,
            minor,
            access: access.into_iter().collect(),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_list_means_what_it_says(rules in prop::collection::vec(some_rule(), 0..12)) {
        let program = program(&rules);
        assert_well_formed(&program);
        for node_type in ['b', 'c'] {
            for major in [0, 1, 10, 4095] {
                for minor in [0, 3, 5, 0xf_ffff] {
                    for access in 1..=EVERYTHING {
                        let request = Request { node_type, major, minor, access };
                        prop_assert_eq!(run(&program, request), reference(&rules, request), "{:?}", request);
                    }
                    // access(2) with X_OK wants none of the three: it ends with an answer, whichever.
                    run(&program, Request { node_type, major, minor, access: 0 });
                }
            }
        }
    }
}

#[test]
fn accesses_may_be_allowed_by_different_rules() {
    let rules = ["deny a *:* rwm", "allow c 1:* r", "allow c 1:3 w"];
    let program = program(&texts(&rules));
    assert!(run(&program, request("c 1:3 rw")));
    assert!(!run(&program, request("c 1:5 rw")));
    assert!(!run(&program, request("b 1:3 r")));
}

#[test]
fn a_denied_access_denies_what_it_is_asked_with() {
    let program = program(&texts(&["allow a *:* rwm", "deny c 1:3 w"]));
    assert!(!run(&program, request("c 1:3 rw")));
    assert!(run(&program, request("c 1:3 r")));
}

#[test]
fn one_device_is_one_instruction() {
    let with = |count: usize| {
        let mut rules = texts(&["deny a *:* rwm"]);
        rules.extend((0..count).map(|minor| written(&format!("allow c 5:{minor} rwm"))));
        program(&rules).len()
    };
    assert_eq!(with(101), with(1) + 100);
}

#[test]
fn numbers_that_no_device_has_are_left_out() {
    let rules = texts(&[
        "deny a *:* rwm",
        "allow c 4097:3 rwm",
        "allow c 1:1048579 rwm",
    ]);
    assert_eq!(program(&rules), program(&rules[..1]));
}

#[test]
fn too_many_are_refused() {
    let mut rules = texts(&["deny a *:* rwm"]);
    rules.extend((0..40_000).map(|minor| written(&format!("allow c 5:{minor} rwm"))));
    let error = compile(&Rules::parse(&rules).unwrap()).unwrap_err();
    assert!(error.to_string().contains("40001 rules"), "{error}");
}
