package credentials

import "fmt"

// Masked stands for a secret wherever it would be shown.
const Masked = "***"

// Secret is a value that is shown to nobody.
type Secret string

// String stands for the secret in logs and messages.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return Masked
}

// Format keeps every verb from showing it.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, s.String()) }

// MarshalText keeps encoders from showing it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
