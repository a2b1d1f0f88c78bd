package config

import (
	"errors"
	"fmt"
	"strings"
)

// Box is another hubcap, for links to it. It is not asked for anything.
type Box struct {
	Name string
	URL  string // of its admin port
}

// Boxes are other hubcaps.
type Boxes []Box

// UnmarshalText implements encoding.TextUnmarshaler. A box without a name has that
// of its host.
func (b *Boxes) UnmarshalText(text []byte) error {
	var all Boxes
	for one := range strings.SplitSeq(string(text), ",") {
		name, address, named := strings.Cut(strings.TrimSpace(one), "=")
		if !named {
			name, address = "", name
		}
		at, err := AdminURL(strings.TrimSpace(address))
		if err != nil {
			return fmt.Errorf("%s: %w", one, err)
		}
		if name = strings.TrimSpace(name); !named {
			name = at.Hostname()
		}
		if name == "" || len(name) > 100 {
			return errors.New("want names of 1 to 100 bytes, as in berlin=https://hubcap.example.com:5001")
		}
		all = append(all, Box{Name: name, URL: at.String()})
	}
	*b = all
	return nil
}
