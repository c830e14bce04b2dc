/* A small kernel as strangers write them: entered by Multiboot in 32-bit mode, it looks around, says what it found on COM1, touches things that are
 * not there, and leaves through the debug-exit port. Built in several ELF shapes; see tests/strangers.rs. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

static void outb(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static void outl(u16 port, u32 value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }
static u8 inb(u16 port) { u8 value; __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port)); return value; }

static void put(char c) { while (!(inb(0x3fd) & 0x20)) { } outb(0x3f8, (u8)c); }
static void text(const char *s) { while (*s) put(*s++); }
static void hex(u32 value) {
    int shift = 28;
    text("0x");
    while (shift > 0 && !(value >> shift)) shift -= 4;
    for (; shift >= 0; shift -= 4) put("0123456789abcdef"[value >> shift & 15]);
}
static void line(const char *name, u32 value) { text(name); put(' '); hex(value); put('\n'); }

/* Found only if .data was loaded and .bss was cleared. */
static u32 initialised = 0x12345678;
static u32 cleared[1024];

struct gate { u16 low, selector; u8 zero, type; u16 high; } __attribute__((packed));
static struct gate idt[32] __attribute__((aligned(8)));
static u64 gdt[3] __attribute__((aligned(8))) = {0, 0x00cf9b000000ffffULL, 0x00cf93000000ffffULL};
volatile u32 faults;

/* RDMSR and WRMSR are two bytes: the handler steps over them. */
__asm__(".text\n.globl general_protection\ngeneral_protection:\n\taddl $4, %esp\n\taddl $2, (%esp)\n\tincl faults\n\tiret\n");
void general_protection(void);

static void descriptors(void) {
    struct { u16 limit; u32 base; } __attribute__((packed)) table;
    u32 target = (u32)general_protection;
    table.limit = sizeof gdt - 1;
    table.base = (u32)gdt;
    __asm__ volatile("lgdt %0\n\tljmp $8, $1f\n1:\tmovl $16, %%eax\n\tmovl %%eax, %%ds\n\tmovl %%eax, %%es\n\tmovl %%eax, %%ss" : : "m"(table) : "eax", "memory");
    idt[13].low = (u16)target;
    idt[13].selector = 8;
    idt[13].type = 0x8e;
    idt[13].high = (u16)(target >> 16);
    table.limit = sizeof idt - 1;
    table.base = (u32)idt;
    __asm__ volatile("lidt %0" : : "m"(table) : "memory");
}

static u32 version1(const u32 *info) {
    u32 flags = info[0];
    const u32 *entry, *limit;
    u32 usable = 0;
    line("lower", info[1]);
    line("upper-mib", info[2] >> 10);
    if (flags & 4) { text("command "); text((const char *)info[4]); put('\n'); }
    if (flags & 8) {
        const u32 *module = (const u32 *)info[6];
        line("modules", info[5]);
        if (info[5]) { text("module "); text((const char *)module[2]); put(' '); put(*(const char *)module[0]); line("", module[1] - module[0]); }
    }
    if (flags & 0x40) {
        limit = (const u32 *)(info[12] + info[11]);
        for (entry = (const u32 *)info[12]; entry < limit; entry = (const u32 *)((u32)entry + entry[0] + 4))
            if (entry[5] == 1) usable += entry[3] >> 10;
        line("usable-mib", usable >> 10);
    }
    return 0;
}

static u32 version2(const u32 *info) {
    const u32 *tag = info + 2;
    u32 usable = 0;
    while (tag[0] != 0) {
        if (tag[0] == 1) { text("command "); text((const char *)(tag + 2)); put('\n'); }
        if (tag[0] == 3) { text("module "); text((const char *)(tag + 4)); put(' '); put(*(const char *)tag[2]); line("", tag[3] - tag[2]); }
        if (tag[0] == 4) { line("lower", tag[2]); line("upper-mib", tag[3] >> 10); }
        if (tag[0] == 6) {
            const u32 *entry;
            for (entry = tag + 4; entry < tag + tag[1] / 4; entry += tag[2] / 4)
                if (entry[4] == 1) usable += entry[2] >> 10;
            line("usable-mib", usable >> 10);
        }
        tag = (const u32 *)(((u32)tag + tag[1] + 7) & ~7u);
    }
    return 0;
}

/* What kernels that know PCs by heart do first. */
static void look_around(void) {
    u32 unknown = 0, value, msr;
    u16 port;
    *(volatile u16 *)0xb8000 = 0x0f41;
    /* The 8259s, masked. */
    outb(0x20, 0x11); outb(0xa0, 0x11); outb(0x21, 0x20); outb(0xa1, 0x28); outb(0x21, 4); outb(0xa1, 2); outb(0x21, 1); outb(0xa1, 1);
    outb(0x21, 0xfb); outb(0xa1, 0xff);
    line("pic-mask", inb(0x21));
    /* The 8042's self-test. */
    outb(0x64, 0xaa);
    for (value = 0; value < 100000 && !(inb(0x64) & 1); value++) { }
    line("i8042", inb(0x60));
    /* The 8254 counts. */
    outb(0x43, 0x34); outb(0x40, 0); outb(0x40, 0);
    outb(0x43, 0); value = inb(0x40); value |= (u32)inb(0x40) << 8;
    line("pit-counts", value != 0xffff);
    /* CMOS: the RTC has power. */
    outb(0x70, 0x0d);
    line("rtc-valid", inb(0x71) >> 7);
    /* Nobody answers here. */
    for (port = 0x2e0; port < 0x2e4; port++) unknown = unknown << 8 | inb(port);
    line("empty-ports", unknown);
    outb(0x2e1, 0x55);
    msr = 0xdead;
    __asm__ volatile("rdmsr" : : "c"(msr) : "eax", "edx");
    __asm__ volatile("wrmsr" : : "c"(msr), "a"(1), "d"(0));
    line("msr-faults", faults);
}

void kernel(u32 magic, const u32 *info) {
    u32 sum = 0, index;
    outb(0x3fb, 3);
    text("begin\n");
    line("magic", magic);
    for (index = 0; index < 1024; index++) sum |= cleared[index];
    line("data", initialised);
    line("bss", sum);
    descriptors();
    if (magic == 0x2badb002) version1(info); else if (magic == 0x36d76289) version2(info);
    look_around();
    text("end\n");
    outl(0xf4, 0x21);
    for (;;) __asm__ volatile("cli; hlt");
}
