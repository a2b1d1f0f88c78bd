package doctor

import (
	"os"
	"slices"
	"strings"

	"hubcap/proxy/config"
)

// serviceDir is the data directory that the package's unit sets.
const serviceDir = "/var/lib/hubcap"

// settings returns the environment to check, and where it is from: this
// process's, or, if that sets nothing of hubcap's, the service's own file, which
// a shell beside the service does not have.
func settings(environ []string, file string) (result []string, from string) {
	ours := func(one string) bool { return strings.HasPrefix(one, config.Prefix) }
	if slices.ContainsFunc(environ, ours) {
		return environ, "the environment"
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return environ, "the defaults: no HUBCAP_ variable is set"
	}
	result = append(slices.Clone(environ), config.Prefix+"DATA_DIR="+serviceDir)
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && ours(name) {
			result = append(result, name+"="+unquoted(value))
		}
	}
	return result, file
}

// unquoted returns a value of an environment file (systemd.exec(5)) without its
// quotes.
func unquoted(value string) string {
	value = strings.TrimSpace(value)
	for _, quote := range []string{`"`, "'"} {
		if inner, ok := strings.CutPrefix(value, quote); ok && strings.HasSuffix(inner, quote) {
			return strings.TrimSuffix(inner, quote)
		}
	}
	return value
}
