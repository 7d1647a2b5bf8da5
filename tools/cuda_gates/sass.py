"""Reads the machine code of kernels from a cubin without cuobjdump.

A cubin is an ELF file; a section .text.NAME holds NAME's instructions of 16 bytes (Volta and
later). The low 12 bits of an instruction name the operation, of which the top 3 only say where the
operands come from. Sources: Mesa NAK, src/nouveau/compiler/nak/sm70_encode.rs (HMMA, LDSM, BRA), and
comparison with kernels whose instruction counts follow from their source.
"""
import collections
import struct

# By the low 9 bits, for operations with several operand forms.
ARITHMETIC = {0x023: "FFMA", 0x020: "FMUL", 0x021: "FADD", 0x009: "FMNMX", 0x008: "FSEL",
              0x00B: "FSETP", 0x00C: "ISETP", 0x03E: "F2FP", 0x002: "MOV", 0x010: "IADD3",
              0x012: "LOP3", 0x019: "SHF", 0x011: "LEA", 0x024: "IMAD", 0x025: "IMAD",
              0x007: "SEL", 0x03C: "HMMA", 0x108: "MUFU"}
# By all 12 bits.
EXACT = {0x83B: "LDSM", 0xFAE: "LDGSTS", 0x9AE: "LDGSTS", 0x984: "LDS", 0x988: "STS", 0x388: "STS",
         0xB1D: "BAR", 0x947: "BRA", 0x94D: "EXIT", 0x91A: "DEPBAR", 0x9AF: "LDGDEPBAR",
         0x381: "LDG", 0x981: "LDG", 0x386: "STG", 0x986: "STG", 0x983: "LDL", 0x387: "STL",
         0x987: "STL", 0xF89: "SHFL", 0x389: "SHFL", 0x589: "SHFL", 0x989: "SHFL", 0x98E: "RED",
         0x9A6: "RED", 0x941: "BSYNC", 0x945: "BSSY"}


def operation(word):
    code = word & 0xFFF
    return EXACT.get(code) or ARITHMETIC.get(code & 0x1FF) or hex(code)


def branch_target(index, low, high, is_sm90):
    """Index that a BRA at `index` jumps to: a signed offset in units of 4 bytes from the next
    instruction, 48 bits at bit 34; on sm_90 with 8 lower bits at bit 16."""
    offset = ((low >> 34) & 0x3FFFFFFF) | ((high & 0x3FFFF) << 30)
    if offset >> 47:
        offset -= 1 << 48
    if is_sm90:
        offset = offset * 256 + ((low >> 16) & 0xFF)
    return index + 1 + offset // 4


def kernels(path):
    """Mangled name -> list of (low, high) words."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:4] != b"\x7fELF":
        raise SystemExit(f"{path} is no cubin")
    table, = struct.unpack_from("<Q", data, 0x28)
    entry_size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * entry_size)
                for i in range(count)]
    found = {}
    for section in sections:
        start = sections[names][4] + section[0]
        name = data[start:data.index(b"\0", start)].decode()
        if name.startswith(".text."):
            offset, size = section[4], section[5]
            found[name[len(".text."):]] = [struct.unpack_from("<QQ", data, offset + i)
                                           for i in range(0, size, 16)]
    return found


def main_loop(code, is_sm90):
    """(first, last) of the shortest loop that holds most HMMA: the loop over tiles."""
    best = None
    for index, (low, high) in enumerate(code):
        if operation(low) != "BRA":
            continue
        target = branch_target(index, low, high, is_sm90)
        if target > index:
            continue
        work = sum(operation(word) == "HMMA" for word, _ in code[target:index + 1])
        # Copies of the epilogue behind EXIT jump back over the whole loop.
        key = (work, -(index - target))
        if any(operation(word) == "EXIT" for word, _ in code[target:index + 1]):
            continue
        if best is None or key > best[0]:
            best = (key, target, index)
    if best is None or best[0][0] == 0:
        raise SystemExit("no loop with HMMA found")
    return best[1], best[2]


def hot_path(code, is_sm90):
    """Operations of the straight run of code in the main loop with most HMMA: full tiles.

    Branches that leave the loop for code behind EXIT (a warp that has diverged at a shuffle) and
    come back do not end a run.
    """
    first, last = main_loop(code, is_sm90)
    starts = {first, last + 1}
    for index in range(first, last + 1):
        low, high = code[index]
        name = operation(low)
        if name == "BRA":
            target = branch_target(index, low, high, is_sm90)
            if first <= target <= last:
                starts.update((target, index + 1))
        elif name == "BSYNC":
            starts.add(index + 1)
    ordered = sorted(starts)
    runs = [collections.Counter(operation(low) for low, _ in code[a:b])
            for a, b in zip(ordered, ordered[1:])]
    return max(runs, key=lambda run: run["HMMA"])
