package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// numberedPrefix is what the variables of the n-th one below prefix begin with.
func numberedPrefix(prefix string, n int) string { return fmt.Sprintf("%s%d_", prefix, n) }

// count returns how many n there are for which any <prefix><n>_ is set; they
// must be 0, 1, … without gaps.
func count(prefix string, values map[string]string) (int, error) {
	found := make(map[int]string)
	for name, value := range values {
		if n, _, ok := numbered(prefix, name); ok && value != "" {
			found[n] = name
		}
	}
	for i, n := range slices.Sorted(maps.Keys(found)) {
		if n != i {
			return 0, refused(found[n], values[found[n]], fmt.Errorf("there is no %s…; number them 0, 1, … without gaps", numberedPrefix(prefix, i)))
		}
	}
	return len(found), nil
}

// numbered splits the name of a variable below a prefix.
func numbered(prefix, name string) (n int, field string, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	number, field, found := strings.Cut(rest, "_")
	n, err := strconv.Atoi(number)
	return n, field, ok && found && err == nil && n >= 0 && strconv.Itoa(n) == number
}

// general puts <n> in place of a variable's number.
func general(name string) string {
	for _, prefix := range []string{mirrorPrefix, upstreamPrefix} {
		if _, field, ok := numbered(prefix, name); ok {
			return prefix + "<n>_" + field
		}
	}
	return name
}
