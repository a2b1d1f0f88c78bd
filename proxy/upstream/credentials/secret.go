package credentials

import "fmt"

// Masked stands for a secret wherever it would be shown.
const Masked = "***"

// Secret is a value that is never printed.
type Secret string

// String returns Masked, or the empty string for no secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return Masked
}

// Format masks it for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, s.String()) }

// MarshalText masks it for encoders.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
