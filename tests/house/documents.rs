//! A page for each reason and a reason for each page; links that lead somewhere.

use std::collections::BTreeSet;

use howdah::domain::{Kind, Reason};

use super::{files, root, text};

#[test]
fn every_reason_has_its_page_and_every_page_its_reason() {
    let pages: BTreeSet<String> = files("docs/errors", "md")
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "README")
        .collect();
    let reasons: BTreeSet<String> = Reason::ALL
        .iter()
        .map(|reason| reason.as_str().to_owned())
        .collect();
    assert_eq!(pages, reasons);
}

#[test]
fn every_page_says_what_it_means_and_what_to_do() {
    let index = text(&root().join("docs/errors/README.md"));
    for reason in Reason::ALL {
        let name = reason.as_str();
        let page = text(&root().join(format!("docs/errors/{name}.md")));
        let code = code(reason.kind());
        let head = format!("# {name}\n\ngRPC code: `{code}`\n\n## What it means\n\n");
        let body = page
            .strip_prefix(&head)
            .unwrap_or_else(|| panic!("{name}: begins otherwise"));
        let (means, todo) = body.split_once("\n## What to do\n\n").unwrap();
        assert!(
            means.trim().len() > 20 && todo.trim().len() > 15,
            "{name} says too little"
        );
        let row = format!("| [{name}]({name}.md) | `{code}` |\n");
        assert!(index.contains(&row), "{name} is not in the index");
    }
}

fn code(kind: Kind) -> &'static str {
    match kind {
        Kind::InvalidArgument => "INVALID_ARGUMENT",
        Kind::NotFound => "NOT_FOUND",
        Kind::AlreadyExists => "ALREADY_EXISTS",
        Kind::FailedPrecondition => "FAILED_PRECONDITION",
        Kind::Aborted => "ABORTED",
        Kind::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Kind::PermissionDenied => "PERMISSION_DENIED",
        Kind::Unauthenticated => "UNAUTHENTICATED",
        Kind::Unavailable => "UNAVAILABLE",
        Kind::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Kind::Cancelled => "CANCELLED",
        Kind::Unimplemented => "UNIMPLEMENTED",
        Kind::Internal => "INTERNAL",
    }
}

#[test]
fn links_lead_to_files() {
    let mut pages = files("docs", "md");
    pages.push(root().join("README.md"));
    let mut broken = Vec::new();
    for page in &pages {
        let text = text(page);
        for (_, rest) in text
            .match_indices("](")
            .map(|(at, _)| text.split_at(at + 2))
        {
            let target = rest.split([')', '#']).next().unwrap_or("");
            if target.is_empty() || target.contains("://") {
                continue;
            }
            if !page.parent().unwrap().join(target).exists() {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}
