package content

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode"
)

// The bounds of a manifest's JSON. The largest index in use has some hundreds
// of descriptors, each with a platform and annotations.
const (
	maxDepth   = 32
	maxObjects = 30_000
)

var errShape = fmt.Errorf("nested deeper than %d levels, or more than %d objects", maxDepth, maxObjects)

// checkShape refuses JSON that no client should parse: deeper or larger than
// manifests are, or with a member twice in the outermost object, of which one
// parser takes the first and another the last (CVE-2021-41190). It reads the
// bytes once and allocates nothing per value. Whether they are JSON at all is
// left to the parser that comes after it.
func checkShape(body []byte) error {
	names := make(map[string]bool)
	objects, depth := 0, 0
	isName := false // the next string at depth 1 is a member's name
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '{', '[':
			depth++
			if body[i] == '{' {
				objects++
			}
			isName = depth == 1 && body[i] == '{'
			if depth > maxDepth || objects > maxObjects {
				return errShape
			}
		case '}', ']':
			depth--
		case ',':
			isName = depth == 1
		case '"':
			end := endOfString(body, i)
			if isName && depth == 1 {
				isName = false // its value follows
				if err := addName(names, body[i:end]); err != nil {
					return err
				}
			}
			i = end - 1
		}
	}
	return nil
}

// endOfString returns the offset after the string that begins at i.
func endOfString(body []byte, i int) int {
	for i++; i < len(body); i++ {
		switch body[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(body)
}

// addName notes a quoted member name, which must be new.
func addName(names map[string]bool, quoted []byte) error {
	var name string
	if err := json.Unmarshal(quoted, &name); err != nil {
		return errors.New("a member name that is not a JSON string")
	}
	folded := fold(name)
	if names[folded] {
		return fmt.Errorf("member %.50q twice", name)
	}
	names[folded] = true
	return nil
}

// fold returns the same string for all names that encoding/json takes for one
// another: those that differ in case only, by Unicode's simple case folding.
func fold(name string) string {
	folded := []rune(name)
	for i, r := range folded {
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			folded[i] = min(folded[i], next)
		}
	}
	return string(folded)
}
