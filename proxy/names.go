package proxy

import "strings"

// maxName is the longest repository name, in bytes, as Docker has it.
const maxName = 255

// looksLikeHost reports whether the first part of a repository's name is a
// registry, as in Docker's references: it has a dot or a port, or is localhost.
// A single label is an account at Docker Hub.
func looksLikeHost(s string) bool { return strings.ContainsAny(s, ".:") || s == "localhost" }

// isRegistry reports whether s can be a registry's name: a host or an address,
// with or without a port.
func isRegistry(s string) bool {
	if s == "" || len(s) > 261 {
		return false
	}
	host, port := s, "1"
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, port = s[:i], s[i+1:]
	}
	if _, ok := position(port); !ok || len(port) > 5 {
		return false
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return ok && inner != "" && !strings.ContainsFunc(inner, func(r rune) bool { return !isAlnum(r) && r != ':' && r != '.' })
	}
	return host != "" && !strings.ContainsFunc(host, func(r rune) bool { return !isAlnum(r) && (r < 'A' || r > 'Z') && r != '-' && r != '.' && r != '_' })
}

// isName reports whether s is a repository's name: [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)* between
// slashes (OCI distribution specification).
func isName(s string) bool {
	if len(s) > maxName {
		return false
	}
	for component := range strings.SplitSeq(s, "/") {
		if !isComponent(component) {
			return false
		}
	}
	return true
}

func isComponent(s string) bool {
	notAlnum := func(r rune) bool { return !isAlnum(r) }
	for {
		end := strings.IndexFunc(s, notAlnum)
		if end < 0 {
			return s != ""
		}
		if end == 0 {
			return false
		}
		s = s[end:]
		next := strings.IndexFunc(s, isAlnum)
		if next < 0 {
			return false
		}
		if sep := s[:next]; sep != "." && sep != "_" && sep != "__" && strings.Trim(sep, "-") != "" {
			return false
		}
		s = s[next:]
	}
}

func isAlnum(r rune) bool { return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' }

// isTag reports whether s is a tag: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127} (OCI distribution
// specification).
func isTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !isAlnum(r) && (r < 'A' || r > 'Z') && r != '_' && r != '.' && r != '-'
	})
}
