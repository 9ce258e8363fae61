//! Static archives that stand for CUDA's shared libraries and open the real ones at the first call.
//!
//! candle's bindings link to libcuda, libcublas and others by name, so a program with GPU support would not start where one
//! of them is missing. With an archive `libcuda.a` in front of the linker's search path, whose functions jump through
//! slots that lazy.c fills by dlopen and dlsym, the same program starts everywhere; a function of a missing library returns
//! an error code. Made for x86-64 Linux; `DTRAIN_CUDA_LINK=installed` links to an installation's libraries instead.

use std::path::Path;
use std::process::Command;

use crate::run;

/// One `[section]` of libraries.txt.
struct Library {
    name: String,
    missing: String,
    files: Vec<String>,
    /// What it does without its library (a letter that lazy.c knows), and its name.
    functions: Vec<(char, String)>,
}

/// Writes one archive a library into `folder`. Needs `cc` and `ar`.
pub fn archives(folder: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/build");
    let text = std::fs::read_to_string(source.join("libraries.txt")).expect("kernels/build/libraries.txt");
    for library in libraries(&text) {
        let file = |ending: &str| folder.join(format!("{}{ending}", library.name));
        std::fs::write(file(".s"), assembly(&library)).expect("cannot write into OUT_DIR");
        let files: String = library.files.iter().map(|name| format!("\"{name}\",")).collect();
        run(Command::new("cc")
            .args(["-c", "-fPIC", "-o"])
            .arg(file("_stubs.o"))
            .arg(file(".s")));
        run(Command::new("cc")
            .args(["-c", "-O2", "-fPIC", "-o"])
            .arg(file("_open.o"))
            .arg(format!("-DLIBRARY={}", library.name))
            .arg(format!("-DMISSING={}", library.missing))
            .arg(format!("-DFILES={files}"))
            .arg(source.join("lazy.c")));
        let archive = folder.join(format!("lib{}.a", library.name));
        let _ = std::fs::remove_file(&archive);
        run(Command::new("ar")
            .arg("crs")
            .arg(archive)
            .arg(file("_stubs.o"))
            .arg(file("_open.o")));
    }
}

fn libraries(text: &str) -> Vec<Library> {
    let mut all: Vec<Library> = Vec::new();
    for line in text.lines().map(|line| line.split('#').next().unwrap_or_default()) {
        let words: Vec<&str> = line
            .split_whitespace()
            .map(|word| word.trim_matches(['[', ']']))
            .collect();
        if line.starts_with('[') {
            all.push(Library {
                name: words[0].to_owned(),
                missing: words[1].to_owned(),
                files: Vec::new(),
                functions: Vec::new(),
            });
            continue;
        }
        let Some(library) = all.last_mut() else { continue };
        match words[..] {
            ["open", file] => library.files.push(file.to_owned()),
            ["text", name] => library.functions.push(('t', name.to_owned())),
            ["handle", name] => library.functions.push(('h', name.to_owned())),
            ["done", name] => library.functions.push(('d', name.to_owned())),
            _ => library
                .functions
                .extend(words.iter().map(|name| ('e', (*name).to_owned()))),
        }
    }
    all
}

/// For each function a jump through its slot. A slot first leads to code that asks lazy.c for the address, with all
/// registers that may hold arguments saved, and then jumps there.
fn assembly(library: &Library) -> String {
    let name = &library.name;
    let functions = || library.functions.iter().enumerate();
    let mut lines = vec![".text".to_owned()];
    for (i, (_, function)) in functions() {
        lines.push(format!(".globl {function}\n.type {function},@function\n{function}:"));
        lines.push(format!("  jmp *dtrain_slots_{name}+{}(%rip)", 8 * i));
        lines.push(format!(".Lfirst{i}:\n  pushq ${i}\n  jmp .Lresolve"));
    }
    // At .Lresolve the index lies on top of the return address: the stack is aligned to 16 bytes, and is so at the call.
    let registers = ["rdi", "rsi", "rdx", "rcx", "r8", "r9", "rax", "r10"];
    lines.push(".Lresolve:".to_owned());
    lines.extend(registers.iter().map(|register| format!("  pushq %{register}")));
    lines.push("  subq $128,%rsp".to_owned());
    lines.extend((0..8).map(|i| format!("  movups %xmm{i},{}(%rsp)", 16 * i)));
    lines.push(format!(
        "  movq 192(%rsp),%rdi\n  call dtrain_resolve_{name}\n  movq %rax,%r11"
    ));
    lines.extend((0..8).map(|i| format!("  movups {}(%rsp),%xmm{i}", 16 * i)));
    lines.push("  addq $128,%rsp".to_owned());
    lines.extend(registers.iter().rev().map(|register| format!("  popq %{register}")));
    lines.push("  addq $8,%rsp\n  jmp *%r11".to_owned());

    let table = |section: &str, symbol: &str| {
        let symbol = format!("dtrain_{symbol}_{name}");
        format!(".section {section}\n.balign 8\n.globl {symbol}\n.hidden {symbol}\n{symbol}:")
    };
    lines.push(table(".data", "slots"));
    lines.extend(functions().map(|(i, _)| format!("  .quad .Lfirst{i}")));
    lines.push(table(".data.rel.ro,\"aw\"", "names"));
    lines.extend(functions().map(|(i, _)| format!("  .quad .Lname{i}")));
    lines.push(table(".rodata", "kinds"));
    lines.extend(functions().map(|(_, (kind, _))| format!("  .byte '{kind}'")));
    lines.extend(functions().map(|(i, (_, function))| format!(".Lname{i}: .asciz \"{function}\"")));
    lines.push(".section .note.GNU-stack,\"\",@progbits\n".to_owned());
    lines.join("\n")
}
