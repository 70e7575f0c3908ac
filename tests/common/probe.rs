//! A program that makes one system call and ends with its error number: an ELF
//! file of twenty instructions, for what no tool of an image would ask for.

#![allow(dead_code, reason = "each test crate has a copy of its own and uses a part of it")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// How the call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// As 64-bit programs do; x32's numbers have bit 30.
    Syscall,
    /// As 32-bit programs do, with their numbers.
    Int80,
}

/// Where the file lies in memory.
const BASE: u64 = 0x40_0000;
/// Bytes of both headers.
const HEADERS: u64 = 64 + 56;

/// Where the bytes lie that an argument may point to.
pub const DATA: u64 = BASE + 0x800;

/// Writes the program for `number` with three arguments to `path`.
pub fn write(path: &Path, gate: Gate, number: u32, arguments: [u64; 3], data: &[u8]) {
    let mut code = code(gate, number, arguments);
    code.resize(usize::try_from(DATA - BASE - HEADERS).unwrap(), 0);
    code.extend(data);
    let length = HEADERS + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable for x86-64, version 1.
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // All of it, readable and executable.
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, BASE, BASE, length, length, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    // By another process, or what a thread beside this one forks would hold the file open for writing.
    let mut writer = Command::new("sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writer.stdin.take().unwrap().write_all(&elf).unwrap();
    assert!(writer.wait().unwrap().success());
}

fn code(gate: Gate, number: u32, arguments: [u64; 3]) -> Vec<u8> {
    let mut code = Vec::new();
    match gate {
        Gate::Syscall => {
            // movabs to rdi, rsi, rdx; mov eax; syscall
            for (register, argument) in [0xbf, 0xbe, 0xba].into_iter().zip(arguments) {
                code.extend([0x48, register]);
                code.extend(argument.to_le_bytes());
            }
            code.push(0xb8);
            code.extend(number.to_le_bytes());
            code.extend([0x0f, 0x05]);
        }
        Gate::Int80 => {
            // mov to ebx, ecx, edx; mov eax; int 0x80
            for (register, argument) in [0xbb, 0xb9, 0xba].into_iter().zip(arguments) {
                code.push(register);
                code.extend(u32::try_from(argument).unwrap().to_le_bytes());
            }
            code.push(0xb8);
            code.extend(number.to_le_bytes());
            code.extend([0xcd, 0x80]);
        }
    }
    // Nothing below zero is no error: test eax,eax; jns; neg eax; jmp; xor eax,eax; mov edi,eax; exit
    code.extend([0x85, 0xc0, 0x79, 0x04, 0xf7, 0xd8, 0xeb, 0x02, 0x31, 0xc0, 0x89, 0xc7]);
    code.extend([0xb8, 60, 0, 0, 0, 0x0f, 0x05]);
    code
}
