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

/// Bytes of both headers.
const HEADERS: usize = 64 + 56;
/// Where the program's data lies in the file.
const DATA_AT: usize = 0x800;

/// Stands for the address of the data, among the arguments of a [`Gate::Syscall`].
pub const DATA: u64 = 0xdada_dada_dada_dada;

/// Writes the program for `number` with three arguments to `path`.
pub fn write(path: &Path, gate: Gate, number: u32, arguments: [u64; 3], data: &[u8]) {
    let mut code = code(gate, number, arguments);
    code.resize(DATA_AT - HEADERS, 0);
    code.extend(data);
    let length = (HEADERS + code.len()) as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // For x86-64, version 1, at any address: it serves as a program and as a loader.
    elf.extend([3, 0, 62, 0, 1, 0, 0, 0]);
    for word in [HEADERS as u64, 64, 0] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // All of it; writable too, as before Linux 6.10 the kernel clears the rest of a loader's last page.
    elf.extend([1, 0, 0, 0, 7, 0, 0, 0]);
    for word in [0, 0, 0, length, length, 0x1000] {
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
            // To rdi, rsi, rdx: lea from rip, or movabs. Then mov eax; syscall.
            for ((register, lea), argument) in [(0xbf, 0x3d), (0xbe, 0x35), (0xba, 0x15)].into_iter().zip(arguments) {
                if argument == DATA {
                    code.extend([0x48, 0x8d, lea]);
                    let after = HEADERS + code.len() + 4;
                    code.extend(u32::try_from(DATA_AT - after).unwrap().to_le_bytes());
                } else {
                    code.extend([0x48, register]);
                    code.extend(argument.to_le_bytes());
                }
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
