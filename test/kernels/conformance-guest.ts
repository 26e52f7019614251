/**
 * The model's cases for a test kernel, made into one file with all that they import: vitest would compile file by file,
 * which takes an emulated CPU as long as the cases.
 */
import "../each-file.js";
import "../patching/conformance/conformance.test.js";
