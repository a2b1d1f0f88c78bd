package doctor

import (
	"errors"
	"io/fs"
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
//
// Variables of the file that are not hubcap's, such as HTTPS_PROXY, are set for
// this process where it has none.
func settings(environ []string, file string) (result []string, from string, err error) {
	ours := func(one string) bool { return strings.HasPrefix(one, config.Prefix) }
	if slices.ContainsFunc(environ, ours) {
		return environ, "the environment", nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return environ, "the defaults: no HUBCAP_ variable is set", nil
	}
	if err != nil {
		return nil, file, err
	}
	result = append(slices.Clone(environ), config.Prefix+"DATA_DIR="+serviceDir)
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		switch {
		case !ok || strings.HasPrefix(name, "#"):
		case ours(name):
			result = append(result, name+"="+unquoted(value))
		case os.Getenv(name) == "":
			_ = os.Setenv(name, unquoted(value)) // fails for what is no name
		}
	}
	return result, file, nil
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
