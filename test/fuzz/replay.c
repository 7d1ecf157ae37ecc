/*-------------------------------------------------------------------------
 *
 * replay.c
 *		Runs the files of a folder through a fuzz target, without libFuzzer.
 *
 *		openai corpus/openai
 *
 * One test in the Test Anything Protocol for the folder; a promise that is
 * broken, or a sanitizer, ends the program with the name of the file.
 *
 *-------------------------------------------------------------------------
 */
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fuzz.h"

static const char *at_work = NULL;

/* Whatever ends the program, the file is named first. */
static void
name_file(int sig)
{
	static const char before[] = "not ok 1 - ";

	if (at_work != NULL &&
		write(STDOUT_FILENO, before, sizeof(before) - 1) > 0 &&
		write(STDOUT_FILENO, at_work, strlen(at_work)) > 0)
		(void) !write(STDOUT_FILENO, "\n", 1);
	signal(sig, SIG_DFL);
	raise(sig);
}

static char *
read_file(const char *name, size_t *len)
{
	FILE	   *file = fopen(name, "rb");
	char	   *data;
	long		size;

	if (file == NULL || fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) < 0)
	{
		perror(name);
		exit(2);
	}
	rewind(file);
	/* of exactly that size, so that a sanitizer sees where it ends */
	data = malloc(size > 0 ? size : 1);
	*len = fread(data, 1, size, file);
	fclose(file);
	return data;
}

int
main(int argc, char **argv)
{
	struct dirent **names;
	int			count;
	int			tried = 0;

	signal(SIGABRT, name_file);
	if (argc != 2 || (count = scandir(argv[1], &names, NULL, alphasort)) < 0)
	{
		fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
		return 2;
	}
	for (int i = 0; i < count; i++)
	{
		char		path[4096];
		char	   *data;
		size_t		len;

		if (names[i]->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/%s", argv[1], names[i]->d_name);
		at_work = path;
		data = read_file(path, &len);
		(void) LLVMFuzzerTestOneInput((const uint8_t *) data, len);
		free(data);
		tried++;
	}
	printf("%sok 1 - %s: %d files\n", tried > 0 ? "" : "not ", argv[1], tried);
	printf("1..1\n");
	return tried > 0 ? 0 : 1;
}
