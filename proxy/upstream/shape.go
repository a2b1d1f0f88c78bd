package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// The bounds of a manifest's JSON. The largest index in use has some hundreds
// of descriptors, each with a platform and annotations.
const (
	maxDepth   = 32
	maxObjects = 30_000
)

// checkShape tells why a manifest's JSON is not to be read by anybody: deeper
// or larger than manifests are, or with a member twice, of which one reader
// takes the first and another the last (CVE-2021-41190). Names that differ in
// case only are the same to some.
func checkShape(manifest []byte) error {
	tokens := json.NewDecoder(bytes.NewReader(manifest))
	tokens.UseNumber()
	top := make(map[string]bool)
	objects, depth, isName := 0, 0, false // isName: a string here is a member of the outermost object
	for {
		token, err := tokens.Token()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
			if token == json.Delim('{') {
				objects++
			}
			isName = depth == 1 && token == json.Delim('{')
		case json.Delim('}'), json.Delim(']'):
			depth--
			isName = depth == 1
		default:
			if name, ok := token.(string); ok && isName {
				if name = strings.ToLower(name); top[name] {
					return fmt.Errorf("it has %.50q twice", name)
				}
				top[name] = true
				isName = false // its value is next
			} else if depth == 1 {
				isName = true
			}
		}
		if depth > maxDepth || objects > maxObjects {
			return fmt.Errorf("it is deeper than %d, or has more than %d objects", maxDepth, maxObjects)
		}
	}
}
