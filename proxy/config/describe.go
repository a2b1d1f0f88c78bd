package config

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Variable is one variable as it is documented.
type Variable struct {
	Name    string // with <n> for the number of those that there are several of
	Default string // as it is written; a sentence where it is computed
	Means   string
}

// computed are the defaults that depend on the machine or on other
// variables.
var computed = map[string]string{
	Prefix + "CACHE_SIZE":                 "80% of the file system, but at most half of the space that is free at the first start",
	Prefix + "ALLOW_CLIENTS":              "loopback, private, link-local and 100.64.0.0/10 ranges, and the networks of the machine's interfaces",
	Prefix + "STALE_IF_ERROR":             "unlimited for public content, 0 for shared content",
	Prefix + "MAX_CONNECTIONS":            "as file descriptors and memory allow, at most 16384",
	Prefix + "MAX_CONNECTIONS_PER_CLIENT": "half of HUBCAP_MAX_CONNECTIONS",
	upstreamPrefix + "<n>_HOST":           "the well-known public registries",
	upstreamPrefix + "<n>_URL":            "https://<host>",
	upstreamPrefix + "<n>_TOKEN_HOSTS":    "those of the well-known public registries",
	upstreamPrefix + "<n>_TAG_TTL":        Prefix + "TAG_TTL",
}

// Variables are all there are, in the order of the documentation.
func Variables() []Variable {
	return slices.Concat(describe(variables{}, Prefix), describe(Mirror{}, mirrorPrefix+"<n>_"), describe(registry{}, upstreamPrefix+"<n>_"), ClientVariables())
}

// ClientVariables are those of Variables that only the commands read.
func ClientVariables() []Variable { return describe(clientVariables{}, Prefix) }

func describe(of any, prefix string) []Variable {
	var all []Variable
	for _, field := range reflect.VisibleFields(reflect.TypeOf(of)) {
		v := Variable{
			Name:    prefix + field.Tag.Get("env"),
			Default: field.Tag.Get("envDefault"),
			Means:   field.Tag.Get("means"),
		}
		if text, ok := computed[v.Name]; ok {
			v.Default = text
		}
		all = append(all, v)
	}
	return all
}

// variableOf is the variable of a field, by the field's name.
func variableOf(target any, field string) string {
	t := reflect.TypeOf(target).Elem()
	if f, ok := t.FieldByName(field); ok {
		return f.Tag.Get("env")
	}
	return field
}

// Print writes every variable with its default and its present value, secrets
// masked.
func Print(w io.Writer, environ []string) error {
	present := make(map[string]string)
	for _, one := range environ {
		name, value, _ := strings.Cut(one, "=")
		if strings.HasPrefix(name, Prefix) && value != "" {
			present[name] = value
		}
	}
	var out bytes.Buffer
	line := func(name string, v Variable) {
		value, set := present[name]
		state := "default: " + v.Default
		if v.Default == "" {
			state = "not set"
		}
		if file := present[name+"_FILE"]; isSecret(name) && file != "" {
			state = "from " + show(name+"_FILE", file)
		}
		if set {
			state = show(name, value) + "  (" + state + ")"
		}
		fmt.Fprintf(&out, "%-36s %s\n", name, state)
	}
	for _, v := range Variables() {
		names := []string{v.Name}
		if prefix, field, several := strings.Cut(v.Name, "<n>_"); several {
			// What is numbered wrongly is shown as if there were none.
			if numbers, err := count(prefix, present); err == nil && numbers > 0 {
				names = names[:0]
				for n := range numbers {
					names = append(names, numberedPrefix(prefix, n)+field)
				}
			}
		}
		for _, name := range names {
			line(name, v)
		}
	}
	_, err := out.WriteTo(w)
	return err
}

// show is a value as it may be shown: in one line, without credentials. An
// operator may have put some before the host of an address.
func show(name, value string) string {
	if isSecret(name) {
		return masked
	}
	if at := strings.LastIndexByte(value, '@'); at >= 0 && holdsHosts(name) {
		scheme, _, found := strings.Cut(value[:at], "://")
		if scheme += "://"; !found {
			scheme = ""
		}
		value = scheme + masked + value[at:]
	}
	if strings.ContainsFunc(value, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(value)
	}
	return value
}

// holdsHosts reports whether the values of a variable are addresses of registries.
func holdsHosts(name string) bool {
	return strings.HasSuffix(name, "_URL") || strings.HasSuffix(name, "_HOST") || strings.HasSuffix(name, "_TOKEN_HOSTS") ||
		strings.HasSuffix(name, "_UPSTREAM")
}

// unknown warns of variables that do nothing, with the nearest one that does.
func unknown(values map[string]string) []string {
	var known []string
	for _, v := range Variables() {
		known = append(known, v.Name)
		if isSecret(v.Name) {
			known = append(known, v.Name+"_FILE")
		}
	}
	var warnings []string
	for name := range values {
		if !strings.HasPrefix(name, Prefix) || slices.Contains(known, general(name)) || foreign(name) {
			continue
		}
		nearest := slices.MinFunc(known, func(a, b string) int {
			return distance(a, general(name)) - distance(b, general(name))
		})
		warnings = append(warnings, fmt.Sprintf("%s is no variable of hubcap and does nothing; did you mean %s?", name, nearest))
	}
	slices.Sort(warnings)
	return warnings
}

// foreign reports whether Kubernetes sets a variable of that name for a service
// that is called hubcap.
func foreign(name string) bool {
	rest := strings.TrimPrefix(name, Prefix)
	return rest == "PORT" || strings.HasPrefix(rest, "PORT_") || strings.HasPrefix(rest, "SERVICE_")
}

// distance is the number of letters to insert, delete or replace to make a of
// b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
