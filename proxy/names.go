package proxy

import "strings"

// maxName is the longest repository name, in bytes, as Docker has it.
const maxName = 255

// looksLikeHost tells a registry's name at the beginning of a repository's,
// as Docker's references do: by a dot, a port, or localhost. A single label is
// never one: on a mirror of Docker Hub it is somebody's account.
func looksLikeHost(s string) bool { return strings.ContainsAny(s, ".:") || s == "localhost" }

// isRegistry tells what could be a registry's name: a host with or without a
// port, or an address.
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

// isName tells a repository's name: [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)* between
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

// isTag tells a tag: [a-zA-Z0-9_][a-zA-Z0-9._-]{0,127} (OCI distribution
// specification).
func isTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return !isAlnum(r) && (r < 'A' || r > 'Z') && r != '_' && r != '.' && r != '-'
	})
}
