/* SPDX-License-Identifier: GPL-2.0-only */
/* Stands for ip-masq-agent: takes any flags, and does nothing until it is ended. */
#include <unistd.h>

int main(void)
{
	for (;;)
		pause();
}
