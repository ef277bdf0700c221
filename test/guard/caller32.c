/* A 32-bit program without a library: one legacy table written by int 0x80. Exits with the errno. */
static int call(int number, int a, int b, int c, const void *d, int e)
{
	int result;

	__asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory");
	return result;
}

void _start(void)
{
	static char table[92 + 4 * 148];
	int raw = call(359, 2, 3, 255, 0, 0); /* socket(AF_INET, SOCK_RAW, IPPROTO_RAW) */
	int result;

	__builtin_memcpy(table, "filter", 7);
	table[32] = 14; /* hooks */
	table[36] = 5;	/* rows */
	table[84] = 4;	/* rows of the table it replaces */
	result = raw < 0 ? raw : call(366, raw, 0, 64, table, sizeof(table));
	call(1, -result, 0, 0, 0, 0);
	__builtin_unreachable();
}
